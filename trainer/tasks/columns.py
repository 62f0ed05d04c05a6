"""Columns: the predictions for every sample of a data set, in its order."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.data.blocks import ranges


@dataclass(frozen=True, eq=False)
class Column:
    """A prediction for N samples; a sample may have several entries (a tag for every token)."""

    values: np.ndarray
    """[N, ...] with one entry per sample, or [E, ...], the concatenated entries of all samples."""
    offsets: np.ndarray | None = None
    """[N + 1]: sample i has entries offsets[i] to offsets[i + 1]; None if each has exactly one."""

    def __len__(self) -> int:
        """N, the number of samples."""
        return len(self.values) if self.offsets is None else len(self.offsets) - 1

    def __getitem__(self, sample: int) -> Any:
        """The entry of a sample, or its entries as an array [n, ...]."""
        if self.offsets is None:
            return self.values[sample]
        sample = range(len(self))[sample]  # negative indices count from the end
        return self.values[self.offsets[sample] : self.offsets[sample + 1]]

    def __iter__(self) -> Iterator[Any]:
        return (self[sample] for sample in range(len(self)))

    def tolist(self) -> list[Any]:
        """Plain Python values: for each sample its entry, or the list of its entries."""
        if self.offsets is None:
            values: list[Any] = self.values.tolist()
            return values
        entries, ends = self.values.tolist(), self.offsets.tolist()
        return [entries[start:end] for start, end in zip(ends[:-1], ends[1:], strict=True)]

    def by_sample(self) -> np.ndarray | list[np.ndarray]:
        """The array if each sample has one entry; otherwise an array for each sample."""
        return self.values if self.offsets is None else list(self)


def part_of(column: Column, samples: np.ndarray) -> Column:
    """Select these samples, whose indices are in ascending order."""
    if column.offsets is None:
        return Column(column.values[samples])
    first = column.offsets[samples]
    sizes = column.offsets[samples + 1] - first
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return Column(column.values[ranges(first, sizes)[0]], offsets)


Columns = Mapping[str, Column]
"""Columns by the names of `Recipe.predicted`."""
