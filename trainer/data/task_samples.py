"""TaskSamples: presents the token tables of several tasks as one data set, in row order."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
from torch import Tensor

from trainer.data.batch import FlatBatch
from trainer.data.entries import summed_by_sample
from trainer.data.plan import Plan, epoch_order
from trainer.data.task_batch import joined
from trainer.data.tokens import TokenTable

SAMPLES_AT_A_TIME = 1024
"""The number of samples whose loss divisors are computed together."""

CountsOf = Callable[[str, FlatBatch], Tensor]
"""(task, batch of its samples) -> the divisors of its loss, as in `Recipe.counts`."""


@dataclass
class TaskSamples:
    """N samples of several tasks. Implements `Samples`.

    In training, each task's loss sum is divided by its count over the whole global batch, such as
    its number of labeled tokens. Counts depend only on the answers, so every rank knows them
    before any forward pass. In each micro batch, a task's loss sum is multiplied by weight *
    (samples of the global batch) / (count of the task in the global batch); the Trainer then
    divides by the number of samples. An evaluation treats the whole data set as one global batch.
    """

    tables: dict[str, TokenTable]
    """Task -> its samples; tasks without rows are absent"""
    task_names: tuple[str, ...]
    """All tasks of the recipe"""
    weights: Mapping[str, float]
    """Task -> the weight of its loss"""
    owners: np.ndarray
    """[N], the task of each sample, as an index into `task_names`"""
    numbers: np.ndarray
    """[N], each sample's index in the table of its task"""
    rows: np.ndarray
    """[N], the row of the data set from which each sample was made"""
    counts: np.ndarray | None
    """[N] float64, the divisor of each sample's loss; None if answers are missing"""
    plan: Plan | None = None
    """Determines which samples belong to a step; None for an evaluation"""
    lengths: np.ndarray = field(init=False)
    """[N], the number of tokens of each sample"""
    pure: ClassVar[bool] = True
    """`collate` has no side effects, so any thread may call it."""

    def __post_init__(self) -> None:
        self.lengths = self._in_order({n: table.lengths for n, table in self.tables.items()})

    @classmethod
    def of(
        cls,
        tables: dict[str, TokenTable],
        rows: Mapping[str, np.ndarray],
        weights: Mapping[str, float],
        counts_of: CountsOf | None,
    ) -> "TaskSamples":
        """The samples of one table for each task.

        `rows` maps a task to the rows of the data set from which its table was made. `weights` has
        a weight for every task. Without `counts_of` there is no loss, since answers are missing.
        """
        names = tuple(weights)
        sizes = [len(tables[name]) if name in tables else 0 for name in names]
        found = [
            rows[name] if table.rows is None else rows[name][table.rows]
            for name in names
            if (table := tables.get(name)) is not None
        ]
        every = np.concatenate(found)
        order = np.argsort(every, kind="stable")
        numbers = np.concatenate([np.arange(size) for size in sizes])[order]
        owners = np.repeat(np.arange(len(names)), sizes)[order]
        samples = cls(tables, names, weights, owners, numbers, every[order], None)
        if counts_of is not None:
            samples.counts = samples._in_order(
                {name: _counts(name, table, counts_of) for name, table in tables.items()}
            )
        return samples

    def __len__(self) -> int:
        return len(self.owners)

    @cached_property
    def fingerprint(self) -> str:
        """A digest of all token ids and fields, which must be the same when a run is resumed."""
        digest = hashlib.sha256(" ".join(self.task_names).encode())
        for name, table in self.tables.items():
            digest.update(f"{name} {table.fingerprint} ".encode())
        digest.update(self.owners.tobytes())
        return digest.hexdigest()

    def planned(self, plan: Plan) -> "TaskSamples":
        """A copy of these samples for training with this plan; every run needs a separate copy."""
        return replace(self, plan=plan)

    def samples_of(self, name: str) -> np.ndarray:
        """The indices of a task's samples."""
        return np.flatnonzero(self.owners == self.task_names.index(name))

    def collate(
        self, sample_ids: Sequence[int] | np.ndarray, seed: int = 0, epoch: int | None = None
    ) -> FlatBatch:
        """A TaskBatch of these samples, in this order."""
        ids = np.asarray(sample_ids, dtype=np.int64)
        owners, numbers = self.owners[ids], self.numbers[ids]
        places = {
            name: own
            for index, name in enumerate(self.task_names)
            if len(own := np.flatnonzero(owners == index))
        }
        parts = {n: self.tables[n].collate(numbers[p], seed, epoch) for n, p in places.items()}
        return self._joined(parts, places, ids)

    def placeholder(self) -> FlatBatch:
        """A batch of sample 0, with each of its sequences cut to one token."""
        name = self.task_names[int(self.owners[0])]
        first = np.zeros(1, np.int64)
        return self._joined({name: self.tables[name].placeholder()}, {name: first}, first)

    def padding_avoided(self, batch_size: int) -> float:
        """The share of pad tokens that random batches of this size would have with padding."""
        longest, several = self._in_order(self._longest()), self._in_order(self._sequences())
        order = epoch_order(len(self), seed=0, epoch=0)
        starts = np.arange(0, len(self), batch_size)
        widths = np.maximum.reduceat(longest[order], starts)
        positions = widths * np.add.reduceat(several[order], starts)
        return 1.0 - int(self.lengths.sum()) / float(positions.sum())

    def _joined(
        self, parts: dict[str, FlatBatch], places: dict[str, np.ndarray], ids: np.ndarray
    ) -> FlatBatch:
        of_step = None if self.plan is None else self._scales_of_step
        return joined(parts, places, ids, self.task_names, self._scales_of_all, of_step)

    def _scales_of_step(self, step: int) -> Mapping[str, float]:
        assert self.plan is not None
        return self._scales(self.plan.global_batch(step))

    @cached_property
    def _scales_of_all(self) -> Mapping[str, float]:
        return {} if self.counts is None else self._scales(np.arange(len(self)))

    def _scales(self, samples: np.ndarray) -> Mapping[str, float]:
        """Task -> weight * len(samples) / count of the task in `samples`; 0 if the count is 0."""
        assert self.counts is not None, "refused: rows without answers"
        sums = np.bincount(self.owners[samples], self.counts[samples], len(self.task_names))
        return {
            name: self.weights[name] * len(samples) / total if total else 0.0
            for name, total in zip(self.task_names, sums.tolist(), strict=True)
        }

    def _in_order(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """[N], the entries of all samples in order, from a column for each task's table."""
        first = next(iter(columns.values()))
        found = np.empty(len(self), first.dtype)
        for index, name in enumerate(self.task_names):
            if name in columns:
                own = self.owners == index
                found[own] = columns[name][self.numbers[own]]
        return found

    def _sequences(self) -> dict[str, np.ndarray]:
        return {name: np.diff(table.sample_offsets) for name, table in self.tables.items()}

    def _longest(self) -> dict[str, np.ndarray]:
        return {
            name: np.maximum.reduceat(np.diff(table.sequence_offsets), table.sample_offsets[:-1])
            for name, table in self.tables.items()
        }


def _counts(name: str, table: TokenTable, counts_of: CountsOf) -> np.ndarray:
    """[n] float64, the count (loss divisor) of each sample of a task's table."""
    found = np.empty(len(table))
    for start in range(0, len(table), SAMPLES_AT_A_TIME):
        batch = table.collate(range(start, min(start + SAMPLES_AT_A_TIME, len(table))))
        counts = summed_by_sample(counts_of(name, batch).double(), batch)
        found[start : start + len(counts)] = counts.numpy()
    return found
