"""Unread columns are listed once, at the start of a run, for all kinds of recipes and models."""

import logging
from pathlib import Path
from typing import Any

import pytest

from recipes.instruction import Instruction
from recipes.sequence_classification import SequenceClassification
from tests.unit.test_exactness import tiny_model
from tests.unit.training.plain_runs import rows, trainer
from trainer.callbacks.callback import Callback, RunFacts
from trainer.data.in_memory_rows import as_table
from trainer.data.unread_columns import unread_columns, unread_note
from trainer.tokenizer import Tokenizer
from trainer.trainer import Trainer

NOTES = {"text": ["a", "b"], "label": [0, 1], "id": [7, 8], "source": ["x", "y"]}


def test_what_a_recipe_does_not_read(minilm: Path) -> None:
    tokenizer = Tokenizer.from_pretrained(minilm)
    recipe = SequenceClassification(problem="single_label", labels=["0", "1"])
    assert unread_columns(as_table(NOTES), recipe, tokenizer) == ["id", "source"]
    pairs = as_table({**NOTES, "text_pair": ["c", "d"]})
    paired = recipe.learn(pairs)
    assert unread_columns(pairs, paired, tokenizer) == ["id", "source"]
    chats = {
        "messages": [[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]]
    }
    unread = unread_columns(as_table({**chats, "id": [1]}), Instruction(), tokenizer)
    assert unread == ["id"]
    ids = {"input_ids": [[1]], "labels": [0], "note": ["a"], "attention_mask": [[1]]}
    assert unread_columns(as_table(ids), recipe, None) == ["note"]


def test_what_is_not_passed_to_a_plain_module() -> None:
    recipe = trainer(None).recipe
    assert unread_note(rows(), recipe, None, ["x", "labels"], "here") == ""
    junk = [{**row, "id": 1, "y": 2.0} for row in rows()]
    note = unread_note(junk, recipe, None, ["x", "labels"], "here")
    assert note == "here: id, y: not passed to the model"
    assert unread_note(junk, recipe, None, [], "here") == ""  # its forward takes any argument


def test_a_run_names_them_once(minilm: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Start(Callback):
        notes: tuple[str, ...] = ()

        def on_start(self, facts: RunFacts) -> None:
            self.notes = facts.data_notes

    tokenizer = Tokenizer.from_pretrained(minilm)
    started = Start()
    given: dict[str, Any] = {"tokenizer": tokenizer, "train_dataset": NOTES, "callbacks": started}
    with caplog.at_level(logging.INFO, "trainer"):
        Trainer(
            tiny_model(num_labels=2, vocab_size=len(tokenizer)),
            SequenceClassification(max_length=8), {"max_steps": 1, "precision": "fp32"}, **given,
        ).fit()  # fmt: skip
    assert started.notes == ("dataset.train: not read: id, source",)
    assert caplog.text.count("not read: id, source") == 1
