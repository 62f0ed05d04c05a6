"""Plain rows: torch's data sets, tuples, ragged rows, and rows batched by a collator."""

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset

from tests.unit.training.plain_runs import Line, ragged, rows, squared, trainer, weights
from trainer.data.collators import PaddingCollator
from trainer.data.plain_rows import named
from trainer.data.stacked_samples import StackedSamples
from trainer.errors import InputError

X = [float(row["x"]) for row in rows()]
Y = [float(row["labels"]) for row in rows()]
Pair = namedtuple("Pair", ["x", "labels"])


@dataclass
class Point:
    x: float
    labels: float


class Indexed(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, number: int) -> Any:
        return rows()[number]


class Named(Indexed):
    def __getitem__(self, number: int) -> Any:
        return Pair(X[number], Y[number])


DOUBLE = torch.float64
KINDS: dict[str, Any] = {
    "tensors": torch.utils.data.TensorDataset(torch.tensor(X, dtype=DOUBLE), torch.tensor(Y)),
    "tuples": [(torch.tensor(x, dtype=DOUBLE), y) for x, y in zip(X, Y, strict=True)],
    "named tuples": Named(),
    "dataclasses": [Point(x, y) for x, y in zip(X, Y, strict=True)],
    "subset": torch.utils.data.Subset(Indexed(), list(range(len(X)))),
    "joined": torch.utils.data.ConcatDataset(
        [
            torch.utils.data.Subset(Indexed(), range(9)),
            torch.utils.data.Subset(Indexed(), range(9, 24)),
        ]
    ),
    "columns": {"x": X, "labels": Y},
    "frame": pd.DataFrame({"x": X, "labels": Y}),
    "table": Dataset.from_dict({"x": X, "labels": Y}),
    "with a text": [{**row, "note": "abc"} for row in rows()],
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_rows_trains_to_the_same_weights(kind: str) -> None:
    expected, run = trainer(rows()), trainer(KINDS[kind])
    expected.fit()
    run.fit()
    assert np.allclose(weights(run), weights(expected), atol=1e-5)
    assert run.evaluate(KINDS[kind])["eval_loss"] == pytest.approx(
        expected.evaluate(rows())["eval_loss"], rel=1e-4
    )


def test_entries_of_tuples_belong_to_forward_and_the_last_are_labels() -> None:
    assert named((1, 2, 3), ["input_ids", "attention_mask", "labels"]) == {
        "input_ids": 1, "attention_mask": 2, "labels": 3,
    }  # fmt: skip
    assert named(5, ["x"]) == {"x": 5}
    with pytest.raises(InputError, match="found a tuple of 3, and forward takes x; accepted: dict"):
        named((1, 2, 3), ["x"])


@pytest.mark.parametrize("micro", [1, 2, 3, 5])
def test_ragged_rows_give_one_gradient_however_they_are_split(micro: int) -> None:
    """Rows of different shapes never share a batch, so that none needs a pad."""
    whole, split = trainer(ragged()), trainer(ragged(), settings={"micro_batch_size": micro})
    whole.fit()
    split.fit()
    assert np.allclose(weights(split), weights(whole), rtol=1e-12, atol=0)
    by_hand = torch.cat([squared(Line()(row["x"]), row)[0][None] for row in ragged()]).sum()
    found = trainer(ragged()).evaluate(ragged())["eval_loss"]
    assert found == pytest.approx(
        float(by_hand) / sum(len(row["x"]) for row in ragged()), rel=1e-12
    )


def test_predictions_of_ragged_rows_are_in_their_order() -> None:
    (found,) = trainer(None).predict(ragged()).values()
    assert found.shape == (24, 4)
    for row, padded in zip(ragged(), found, strict=True):
        y = Line()(row["x"]).detach().numpy()
        assert padded.tolist() == [*y.tolist(), *[-100.0] * (4 - len(y))]


def pad(batch: list[dict[str, Any]]) -> dict[str, Any]:
    """Pads with zeros, which `counted` leaves out."""
    longest = max(len(row["x"]) for row in batch)
    filled = {n: torch.zeros(len(batch), longest, dtype=DOUBLE) for n in ("x", "labels", "seen")}
    for number, row in enumerate(batch):
        for name in ("x", "labels"):
            filled[name][number, : len(row[name])] = row[name]
        filled["seen"][number, : len(row["x"])] = 1
    return filled


def counted(outputs: torch.Tensor, batch: Any) -> Any:
    return ((outputs - batch["labels"]).square() * batch["seen"]).sum(), batch["seen"].sum()


@pytest.mark.parametrize("micro", [None, 1, 3])
def test_a_collator_makes_the_batches(micro: int | None) -> None:
    expected = trainer(ragged())
    run = trainer(ragged(), data_collator=pad, loss=counted, settings={"micro_batch_size": micro})
    expected.fit()
    run.fit()
    assert np.allclose(weights(run), weights(expected), rtol=1e-12, atol=0)


def test_a_collator_draws_the_same_for_the_same_rows() -> None:
    def noisy(batch: list[Any]) -> dict[str, Any]:
        return {"x": torch.rand(len(batch)) + np.random.rand()}

    samples = StackedSamples(rows(), ["x"], noisy)
    before = torch.get_rng_state()
    first, again = (samples.collate([3, 1], seed=5, epoch=2)["x"] for _ in range(2))
    assert torch.equal(first, again) and torch.equal(before, torch.get_rng_state())
    for other in ({"seed": 6, "epoch": 2}, {"seed": 5, "epoch": 3}):
        assert not torch.equal(first, samples.collate([3, 1], **other)["x"])
    assert not torch.equal(first, samples.collate([3, 2], seed=5, epoch=2)["x"])


def test_what_a_collator_may_not_return() -> None:
    run = trainer(rows(), data_collator=lambda batch: torch.ones(3))
    with pytest.raises(InputError, match="^data_collator: returned Tensor; accepted: a mapping"):
        run.fit()
    with pytest.raises(InputError, match="^data_collator: found int; accepted: a function of a li"):
        trainer(rows(), data_collator=3)


def test_token_ids_are_padded_where_a_mask_hides_the_pads() -> None:
    batch = [
        {"input_ids": [5, 6, 7], "labels": [1, 2, 3], "label": 4},
        {"input_ids": [8], "labels": [9], "label": 5},
    ]
    found = PaddingCollator(pad_id=99)(batch)
    assert {name: column.tolist() for name, column in found.items()} == {
        "attention_mask": [[1, 1, 1], [1, 0, 0]],
        "input_ids": [[5, 6, 7], [8, 99, 99]],
        "labels": [[1, 2, 3], [9, -100, -100]],
        "label": [4, 5],
    }
    left = PaddingCollator(left=True)(batch)
    assert left["input_ids"].tolist() == [[5, 6, 7], [0, 0, 8]]
    assert left["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]


def test_a_cell_of_one_id_counts_as_one_token() -> None:
    rows = {"input_ids": [3, 4, 5], "labels": [0, 1, 0]}
    for table in (Dataset.from_dict(rows), Dataset.from_dict(rows).with_format("torch")):
        samples = StackedSamples(table, ["input_ids"])
        assert samples.lengths.tolist() == [1, 1, 1]
        assert samples.collate([0, 2])["input_ids"].tolist() == [3, 5]
