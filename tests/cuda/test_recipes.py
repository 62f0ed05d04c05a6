"""A training step of every recipe on a pretended GPU never waits for a number."""

from pathlib import Path

import pytest

from recipes.distillation import Distillation
from recipes.language_distillation import LanguageDistillation
from tests.cuda.device import Device
from tests.cuda.test_training import process_as_found, waits_of_steps  # noqa: F401 (a fixture)
from tests.unit.recipes import test_seq2seq
from tests.unit.text_runs import ANSWERED, BERT, CASES, LABELLED, LLAMA, Case, write_model
from trainer.settings import TrainSettings
from trainer.trainer import Trainer

RECIPES = {
    "tags, crf": CASES["tags, crf"],
    "embeddings, bert": CASES["embeddings, bert"],
    "pairs, dpo": CASES["pairs, dpo"],
    "singles, kto": CASES["singles, kto"],
    "lists, bert": CASES["lists, bert"],
    "masked blocks, bert": CASES["masked blocks, bert"],
    "questions, bert": CASES["questions, bert"],
    "choices, bert": CASES["choices, bert"],
    "classes, r-drop": CASES["classes, r-drop"],
    "tasks, bert": CASES["tasks, bert"],
    "chats, adapters": CASES["chats, adapters"],
    "translation, t5": Case(
        test_seq2seq.RECIPE,
        test_seq2seq.ROWS[:12],
        {"model_type": "t5", **test_seq2seq.KINDS["t5"], "decoder_start_token_id": 0},
        words=test_seq2seq.tokenizer,
    ),
}


def trained(case: Case) -> dict[str, int]:
    """The places at which two steps in bf16 waited for the device."""
    with Device() as device:
        trainer = Trainer(
            case.model().float(),
            case.recipe,
            TrainSettings(global_batch_size=6, max_steps=2, eval_steps=0, precision="bf16"),
            tokenizer=case.tokenizer,
            train_dataset=list(case.rows),
        )
        assert trainer.ranks.device.type == "cuda"
        with device.traced() as trace:
            trainer.fit()
    return waits_of_steps(trace)


@pytest.mark.parametrize("name", RECIPES)
def test_a_step_waits_for_no_number(name: str) -> None:
    assert not trained(RECIPES[name])


def test_a_step_that_learns_from_a_classifier(tmp_path: Path) -> None:
    entries = {**BERT, "id2label": {"0": "a", "1": "b"}}
    teacher = write_model(tmp_path / "teacher", "sequence_classification", entries)
    recipe = Distillation(teacher=str(teacher), max_length=40, labels=["a", "b"])
    assert not trained(Case(recipe, LABELLED, BERT))


def test_a_step_that_learns_from_a_language_model(tmp_path: Path) -> None:
    teacher = write_model(tmp_path / "teacher", "causal_lm", LLAMA)
    recipe = LanguageDistillation(teacher=str(teacher), max_length=96, top_k=9)
    assert not trained(Case(recipe, ANSWERED, LLAMA))
