"""Distillation: the loss against a trained teacher is exact, and the teacher is freed."""

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from recipes.distillation import Distillation
from tests.unit.text_runs import (
    ANSWERED,
    BERT,
    LABELLED,
    LLAMA,
    Case,
    KillAt,
    Killed,
    distilled_cases,
    weights,
    write_model,
    write_teachers,
)
from trainer.errors import InputError
from trainer.tokenizer import Tokenizer
from trainer.training import teacher


@pytest.fixture(scope="module", autouse=True)
def short_collections() -> Iterator[None]:
    """Trainings collect garbage after dropping a teacher; exclude torch's objects from it."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """A classifier and a language model, each with a teacher."""
    folder = tmp_path_factory.mktemp("teachers")
    write_teachers(folder)
    return {name.removeprefix("distilled "): case for name, case in distilled_cases(folder).items()}


@pytest.mark.parametrize("name", ["classifier", "language"])
def test_any_split_gives_the_same_weights_and_a_killed_run_the_same_bits(
    cases: dict[str, Case], name: str, tmp_path: Path
) -> None:
    case = cases[name]
    sgd = {"optimizer": "sgd", "learning_rate": 0.2, "max_grad_norm": 0.0}
    before = weights(case.trainer())
    whole, alone = case.trainer(**sgd), case.trainer(**sgd, micro_batch_size=1)
    one, other = (run.fit()["metrics"] for run in (whole, alone))
    moved = (weights(whole) - before).norm()
    assert moved > 1e-3 and (weights(whole) - weights(alone)).norm() <= 1e-12 * moved
    assert one == pytest.approx(other, rel=1e-9)
    case.trainer(tmp_path / "whole", save_steps=2).fit()
    with pytest.raises(Killed):
        case.trainer(tmp_path / "cut", [KillAt(3)], save_steps=2).fit()
    case.trainer(tmp_path / "cut", save_steps=2).fit()
    files = [folder / "model" / "model.safetensors" for folder in sorted(tmp_path.iterdir())]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_classifier_comes_to_agree_with_its_teacher(cases: dict[str, Case]) -> None:
    case = cases["classifier"]
    rows = [{"text": row["text"]} for row in LABELLED]
    unlearnt = replace(case.recipe, soft_weight=1.0, hidden_weight=0.0, labels=None)
    recipe = unlearnt.learn(Dataset.from_list(rows))
    assert recipe.labels == ["a", "b"]
    found = Case(recipe, rows, BERT).trainer(learning_rate=1e-2, num_epochs=15).fit()["metrics"]
    assert found["eval_teacher_agreement"] == 1.0 and found["eval_loss"] < 0.2


@pytest.mark.parametrize("divergence", ["forward", "reverse", "js"])
def test_a_language_model_comes_closer_to_its_teacher(
    cases: dict[str, Case], divergence: str
) -> None:
    recipe = replace(cases["language"].recipe, divergence=divergence, soft_weight=1.0)
    trainer = Case(recipe, ANSWERED, LLAMA).trainer(learning_rate=1e-2, num_epochs=6)
    trainer.fit()
    first = Case(recipe, ANSWERED, LLAMA).trainer(learning_rate=1e-9, num_epochs=1)
    before = first.fit()["metrics"]["eval_divergence"]
    assert trainer.evaluate()["eval_divergence"] < 0.7 * before


def test_the_teacher_is_dropped_and_what_it_said_is_cached(
    cases: dict[str, Case], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    loaded: list[Any] = []
    load = teacher.load_teacher

    def watched(*arguments: Any) -> Any:
        model = load(*arguments)
        loaded.append(weakref.ref(model))
        return model

    monkeypatch.setattr("trainer.training.derived.load_teacher", watched)
    trainer = cases["classifier"].trainer(max_steps=1, evaluated=False)
    trainer.fit()
    gc.collect()
    assert len(loaded) == 1 and loaded[0]() is None
    assert "teacher_logits" in trainer.train_samples.collate([0])  # type: ignore[union-attr]


def test_a_teacher_that_does_not_fit_is_refused_in_one_line(
    cases: dict[str, Case], tmp_path: Path
) -> None:
    words = Tokenizer.train(["other words"], vocab_size=280, kind="gpt2", special_tokens=["<|e|>"])
    write_model(tmp_path / "words", "causal_lm", LLAMA, words)
    case = cases["language"]
    refused = replace(case, recipe=replace(case.recipe, teacher=str(tmp_path / "words")))
    with pytest.raises(InputError, match="recipe.teacher: has another vocabulary") as caught:
        refused.trainer().fit()
    assert "\n" not in str(caught.value)
    labels = {"id2label": {"0": "x", "1": "b"}}
    write_model(tmp_path / "labels", "sequence_classification", {**BERT, **labels})
    case = cases["classifier"]
    refused = replace(case, recipe=replace(case.recipe, teacher=str(tmp_path / "labels")))
    with pytest.raises(InputError, match="recipe.teacher: has the classes x, b; the recipe a, b"):
        refused.trainer().fit()
    refused = replace(case, recipe=replace(case.recipe, teacher=str(tmp_path / "nowhere")))
    with pytest.raises(InputError, match="recipe.teacher: "):
        refused.trainer().fit()
    with pytest.raises(InputError, match="recipe.teacher: nothing given"):
        replace(case, recipe=replace(case.recipe, teacher=None)).trainer().fit()


def test_a_column_of_pairs_is_read_or_refused() -> None:
    rows = Dataset.from_dict({"text": ["a"], "text_pair": ["b"], "label": ["x"]})
    recipe = Distillation(teacher="t", labels=["x", "y"])
    assert recipe.learn(rows).text_columns == ("text", "text_pair")
    with pytest.raises(InputError, match="recipe.text_pair: null, but the rows have a column"):
        recipe.features(rows[:], None)  # type: ignore[arg-type]
