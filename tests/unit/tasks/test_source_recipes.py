"""Recipes of a mixture's sources: own options, common labels, and losses by source."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recipes.causal_lm import CausalLM
from recipes.instruction import Instruction
from recipes.masked_lm import MaskedLM
from recipes.sequence_classification import SequenceClassification
from tests.unit.text_runs import (
    BERT,
    CASES,
    CHATS,
    LABELLED,
    MANY,
    TEXTS,
    Case,
    source,
    tokenizer,
)
from trainer.data.mixed_rows import MixedRows, SourceRows
from trainer.data.preprocessing import samples_of
from trainer.errors import InputError
from trainer.tasks.source_recipes import learn_sources, with_changes

PLAIN = {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0}


def labelled(*labels: str, **options: Any) -> Any:
    rows = [{"text": f"{label} {n}", "label": label} for n in range(3) for label in labels]
    return source(rows, **options)


def test_labels_that_only_some_sources_have_are_known_to_all() -> None:
    mixed = MixedRows({"a": labelled("good", "bad"), "b": labelled("bad", "fair")})
    learnt, completed = learn_sources(SequenceClassification(), mixed)
    assert set(learnt.labels or ()) == {"good", "bad", "fair"}
    assert {repr(s.recipe.head) for s in completed.sources.values()} == {repr(learnt.head)}
    assert learn_sources(learnt, completed)[0] == learnt  # as the Trainer does once more


def test_the_recipe_of_the_run_keeps_its_own_columns() -> None:
    rows = [{"headline": "x", "topic": label} for label in ("a", "b") * 2]
    own = {"text": "headline", "label": "topic", "max_length": 9}
    mixed = MixedRows({"news": source(rows, recipe=own)})
    learnt, completed = learn_sources(SequenceClassification(), mixed)
    assert (learnt.text, learnt.label, learnt.max_length) == ("text", "label", 128)
    assert learnt.labels == ["a", "b"]
    found = completed.sources["news"].recipe
    assert (found.text, found.max_length, found.labels) == ("headline", 9, ["a", "b"])


def test_changes_are_carried_over_alone() -> None:
    before = SequenceClassification(text="x")
    after = replace(before, labels=["a", "b"])
    own = SequenceClassification(text="y")
    assert with_changes(own, before, after) == replace(own, labels=["a", "b"])
    assert with_changes(own, before, before) is own


@pytest.mark.parametrize(
    ("recipe", "sources", "message"),
    [
        (
            SequenceClassification(),
            {"a": labelled("x", "y"), "b": labelled("v", "w")},
            r"b: found the labels v, w, the sources before it have x, y; accepted: at least one",
        ),
        (
            SequenceClassification(),
            {
                "a": labelled("x", "y"),
                "b": labelled("x", "y", recipe={"problem": "multi_label", "label_separator": "|"}),
            },
            r"mixture.b.recipe: SequenceClassification needs the head sequence_classification with",
        ),
        (
            Instruction(),
            {"a": source(CHATS), "b": source(TEXTS, recipe=MaskedLM())},
            r"mixture.b.recipe: MaskedLM needs the head masked_lm, 'a' needs causal_lm; ",
        ),
        (
            Instruction(),
            {"b": source(TEXTS, recipe=CausalLM())},
            r"no source is read by the run's recipe Instruction; accepted: at least one source",
        ),
        (
            SequenceClassification(),
            {"a": labelled("x", "y", recipe={"max_lenth": 3})},
            r"mixture.a.recipe: SequenceClassification has no option 'max_lenth'; did you mean",
        ),
        (
            SequenceClassification(),
            {"a": labelled("x", "y", recipe={"max_length": 0})},
            r"mixture.a.recipe.max_length: found 0; accepted: 1 or more",
        ),
        (
            SequenceClassification(),
            {"a": labelled("x", "y", recipe={"text": "t"})},
            r"mixture.a.recipe.text: no column 't'; there are: text, label",
        ),
    ],
)
def test_sources_that_do_not_fit_are_refused(
    recipe: Any, sources: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        learnt, mixed = learn_sources(recipe, MixedRows(sources))
        samples_of(mixed, learnt, tokenizer(), where="dataset.train")


def test_a_recipe_that_makes_other_samples_is_refused() -> None:
    rows = MixedRows({"a": source(CASES["tasks, bert"].rows)})
    with pytest.raises(
        InputError, match=r"mixture.a: MultiTask makes no samples that can be mixed"
    ):
        Case(MANY, rows, BERT, words=CASES["tasks, bert"].words).trainer(evaluated=False)


def test_the_loss_of_each_source_is_logged(tmp_path: Path) -> None:
    """Equal to the mean over its samples of the step, computed by hand."""
    case = CASES["mixture, r-drop"]
    plain = replace(
        case, recipe=replace(case.recipe, r_drop=0.0), entries={**case.entries, **PLAIN}
    )
    sgd = {"optimizer": "sgd", "learning_rate": 1e-12, "logging_steps": 1, "max_steps": 3}
    trainer = plain.trainer(tmp_path, **sgd, micro_batch_size=2)
    samples, model = trainer.train_samples, trainer.model.eval()
    plan = samples.planned(5, 42, 1)
    wanted = []
    for step in range(3):
        batch = samples.collate(plan.global_batch(step))
        sums, counts = trainer.recipe.loss(model(**batch.inputs()), batch)
        found = {"some_loss": batch.sources == 0, "few_loss": batch.sources == 1}
        wanted.append(
            {
                k: (sums[own].sum() / counts[own].sum()).item()
                for k, own in found.items()
                if any(own)
            }
        )
    trainer.fit()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    logged = [{k: row[k] for k in ("some_loss", "few_loss") if k in row} for row in rows[:3]]
    assert logged == [pytest.approx(each, rel=1e-9) for each in wanted]
    assert {"eval_some_loss", "eval_few_loss"} <= rows[-1].keys()


def test_another_mixture_is_not_continued(tmp_path: Path) -> None:
    case = CASES["mixture, r-drop"]
    case.trainer(tmp_path, max_steps=3, save_steps=2).fit()
    sources = {n: replace(s, weight=2.0) for n, s in case.rows.sources.items()}
    other = replace(case, rows=replace(case.rows, sources=sources))
    with pytest.raises(InputError, match=r"data"):
        other.trainer(tmp_path, max_steps=5, save_steps=2).fit()


def test_a_mixture_needs_a_recipe() -> None:
    from torch import nn

    from trainer.trainer import Trainer

    mixed = MixedRows({"a": source(LABELLED)})
    with pytest.raises(InputError, match=r"found a mixture for a plain module; accepted: a recipe"):
        Trainer(nn.Linear(2, 2), loss=lambda o, b: (o.sum(), 1), train_dataset=mixed)


def test_sources_take_every_kind_of_rows_that_the_trainer_takes(tmp_path: Path) -> None:
    """What is not a table becomes one; what cannot become one is refused in one line."""
    rows = [{"text": f"{label} {n}", "label": label} for n in range(3) for label in ("a", "b")]
    columns = {name: [row[name] for row in rows] for name in ("text", "label")}
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"list": rows, "columns": columns, "file": str(file)}
    for kind in (MixedRows({n: SourceRows(each) for n, each in given.items()}), MixedRows(given)):
        learnt, mixed = learn_sources(SequenceClassification(), kind)
        assert len(samples_of(mixed, learnt, tokenizer(), where="dataset.train")) == 18
    bad = {
        "found a generator, which can only be read in order": (row for row in rows),
        "int holds no rows": 3,
        "row 0: a int; accepted: a dict": [1],
        "MixedRows holds no rows": MixedRows(given),
        "found no rows": [],
    }
    for said, each in bad.items():
        with pytest.raises(InputError, match=f"^dataset.mixture.x:? ?{said}"):
            MixedRows({"x": SourceRows(each)})
    with pytest.raises(InputError, match="^dataset.mixture: found a list; accepted: {NAME"):
        MixedRows([SourceRows(rows)])  # type: ignore[arg-type]
