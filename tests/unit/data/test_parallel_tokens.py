"""Tokenizing in several processes gives the arrays of one; workers may fail or be killed."""

import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from recipes.causal_lm import CausalLM
from recipes.sequence_classification import SequenceClassification
from trainer.data import parallel_tokens
from trainer.data.in_memory_rows import as_table
from trainer.data.parallel_tokens import arrays_made_in, num_processes
from trainer.data.read_options import BadRows
from trainer.data.token_arrays import Work, arrays_of
from trainer.data.tokens import tokenize
from trainer.errors import EnvironmentFault, InputError, RowError
from trainer.tasks.recipe import Axis, Recipe
from trainer.tokenizer import Tokenizer

NUMBER = 5300
LABELS = SequenceClassification(problem="single_label", labels=["a", "b"], max_length=6)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["one two three four five six seven"], vocab_size=60, kind="wordpiece")


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel_tokens, "CALLS_PER_PIECE", 2)


@dataclass(frozen=True)
class Numbers(Recipe):
    """A field that is an integer in the first calls and a float in later ones."""

    dies: bool = False
    fields: ClassVar[Mapping[str, Axis]] = {"value": "sample"}

    def features(
        self, rows: Mapping[str, Sequence[Any]], tokenizer: Tokenizer
    ) -> dict[str, list[Any]]:
        numbers = [int(each) for each in rows["n"]]
        for row, number in enumerate(numbers):
            if number % 1999 == 1998:
                raise RowError(row, f"found {number}; accepted: others")
        if self.dies and numbers[0] >= 3000:
            os.kill(os.getpid(), signal.SIGKILL)
        values = [n if numbers[0] < 2000 else n + 0.5 for n in numbers]
        return {"input_ids": [[n % 50] * (1 + n % 3) for n in numbers], "value": values}


def work(recipe: Recipe, tokenizer: Tokenizer, drop: bool = False) -> Work:
    words = ["one", "two", "three", "four", "five", "six", "seven"]
    texts = [" ".join(words[: 1 + n % 7]) for n in range(NUMBER)]
    rows = as_table(
        {"n": list(range(NUMBER)), "text": texts, "label": ["ab"[n % 2] for n in range(NUMBER)]}
    )
    return Work(rows, recipe, tokenizer, "dataset.train", drop)


@pytest.mark.parametrize(
    "recipe",
    [
        Numbers(),
        pytest.param(LABELS, marks=pytest.mark.slow),
        CausalLM(max_length=16, stride=3),
    ],
    ids=["numbers", "labels", "blocks"],
)
def test_the_arrays_are_those_of_one_process(
    recipe: Recipe, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Types, dropped rows, their reasons and counts of truncated rows included."""
    job = work(recipe, tokenizer, drop=True)
    alone = arrays_of(job, progress=False)
    with arrays_made_in(tmp_path / "parts", 3, job, progress=False) as found:
        assert found.keys() == alone.keys()
        for name, array in alone.items():
            assert found[name].dtype == array.dtype, name
            np.testing.assert_array_equal(found[name], array, name)
    assert not list(tmp_path.iterdir())
    assert ("dropped" in alone) == isinstance(recipe, Numbers)


def test_a_bad_row_is_named(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"dataset.train row 1998: found 1998; accepted: others"),
        arrays_made_in(tmp_path / "parts", 2, work(Numbers(), tokenizer), progress=False),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_a_worker_that_is_killed_ends_the_job(tokenizer: Tokenizer, tmp_path: Path) -> None:
    job = work(Numbers(dies=True), tokenizer, drop=True)
    with (
        pytest.raises(EnvironmentFault, match=r"dataset.train: a worker process was kill"),
        arrays_made_in(tmp_path / "parts", 2, job, progress=False),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_the_entry_is_the_one_that_training_reads(tokenizer: Tokenizer, tmp_path: Path) -> None:
    job = work(SequenceClassification(problem="single_label", labels=["a", "b"]), tokenizer)
    given = {"cache_dir": tmp_path, "where": "dataset.train", "progress": False}
    made = tokenize(job.rows, job.recipe, tokenizer, **given, bad_rows=BadRows(), processes=2)
    entries = sorted(path.name for path in tmp_path.iterdir())
    again = tokenize(job.rows, job.recipe, tokenizer, **given)
    assert again.fingerprint == made.fingerprint
    assert sorted(path.name for path in tmp_path.iterdir()) == entries


def test_there_is_a_process_for_each_core() -> None:
    assert num_processes(None) == len(os.sched_getaffinity(0))
    assert num_processes(3) == 3
