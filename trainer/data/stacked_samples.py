"""StackedSamples: makes batches for a plain `nn.Module` from the rows of a plain data set."""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from trainer.data.batch import StackedBatch
from trainer.data.collators import Collator, PaddingCollator, collated
from trainer.data.plain_rows import named, shape_kinds, stacked
from trainer.data.row_seeds import preserve_rng_state, seed_rng_for_row

log = logging.getLogger("trainer")

FINGERPRINT_ROWS = 256
"""The number of rows that are hashed for the fingerprint of a data set that is not in memory."""
IN_MEMORY = (list, tuple)
"""The types of data sets whose rows are in memory and never change."""


@dataclass
class StackedSamples:
    """A map-style data set of dicts (or tuples) of tensors or numbers, for a plain `nn.Module`.

    Rows may draw from the global generators of Python, numpy and torch (augmentation). These are
    seeded for each row, so that a resumed run gets the same rows, and restored afterwards. If
    `rows` is a list, rows of different shapes share a batch only if a collator makes the batches.
    """

    rows: Any
    input_names: Sequence[str]
    """The names of the parameters of the model's `forward`."""
    collator: Collator | None = None
    """Builds a batch from rows; None if columns are stacked."""
    lengths: np.ndarray = field(init=False)
    """[N], the number of token ids of each row, or 1 for rows without token ids"""
    kinds: np.ndarray | None = field(init=False, default=None)
    """[N], equal for rows that may share a batch; None if all rows may share one"""

    def __post_init__(self) -> None:
        self.lengths = np.ones(len(self.rows), dtype=np.int64)
        self.by_tokens = has_tokens(self._read([0])[0])
        if isinstance(self.rows, IN_MEMORY):
            rows = self._read(range(len(self.rows)))
            if self.by_tokens:
                self.lengths = np.array([_length(row) for row in rows], dtype=np.int64)
            if self.collator is None:
                self.kinds = shape_kinds(rows)
        elif self.by_tokens:
            self.lengths = _token_counts(self.rows, _length(self._read([0])[0]))

    @cached_property
    def fingerprint(self) -> str:
        """A digest of all rows of a list, or of FINGERPRINT_ROWS rows of another data set.

        If a row has different values when it is read again (because the data set does not use the
        global generators), only shapes and types are hashed, and a warning says that a resumed run
        will see other rows.
        """
        in_memory = isinstance(self.rows, IN_MEMORY)
        number = len(self) if in_memory else min(len(self), FINGERPRINT_ROWS)
        numbers = np.linspace(0, len(self) - 1, number).astype(np.int64)
        by_value = in_memory or self._digest(numbers[:1]) == self._digest(numbers[:1])
        if not by_value:
            log.warning(
                "the training rows differ each time they are read: a resumed run will see other "
                "rows; use the global generators of random, numpy or torch for random numbers"
            )
        return self._digest(numbers, by_value)

    def padding_avoided(self, batch_size: int) -> float:
        return 0.0

    def __len__(self) -> int:
        return len(self.rows)

    def collate(
        self, sample_ids: Sequence[int] | np.ndarray, seed: int = 0, epoch: int = 0
    ) -> StackedBatch:
        """A batch of these samples. Random rows depend on the seed, the epoch and their index.

        Seeds and restores the global generators, so only the training thread may call it.
        """
        ids = np.asarray(sample_ids, dtype=np.int64)
        rows = self._read(sample_ids, seed, epoch)
        return batch_of(rows, ids, self.input_names, self.collator, seed, epoch)

    def placeholder(self) -> StackedBatch:
        return self.collate([0])

    def _read(
        self, sample_ids: Sequence[int] | np.ndarray, seed: int = 0, epoch: int = 0
    ) -> list[Any]:
        """The rows of these samples, in the form of `rows_for`."""
        if isinstance(self.rows, IN_MEMORY):
            found = [self.rows[int(i)] for i in sample_ids]
        else:
            found = []
            with preserve_rng_state():
                for i in sample_ids:
                    seed_rng_for_row(seed, epoch, int(i))
                    found.append(self.rows[int(i)])
        return rows_for(self.collator, found, self.input_names)

    def _digest(self, numbers: np.ndarray, by_value: bool = True) -> str:
        rows = (self._read([number])[0] for number in numbers)
        return digest_of(rows, len(self), by_value)


def rows_for(collator: Collator | None, rows: list[Any], names: Sequence[str]) -> list[Any]:
    """The rows as mappings, or unchanged if the collator is the user's."""
    is_users = collator is not None and not isinstance(collator, PaddingCollator)
    return rows if is_users else [named(row, names) for row in rows]


def has_tokens(row: object) -> bool:
    """Whether a row holds token ids."""
    return isinstance(row, Mapping) and "input_ids" in row


def batch_of(
    rows: Sequence[Any],
    sample_ids: np.ndarray,
    input_names: Sequence[str],
    collator: Collator | None,
    seed: int,
    epoch: int,
) -> StackedBatch:
    """The rows with these indices as a batch, stacked or built by the collator."""
    if collator is None:
        columns = {name: stacked(rows, name) for name in rows[0]}
    else:
        columns = collated(collator, rows, sample_ids, seed, epoch)
    return StackedBatch(columns, sample_ids, input_names)


def digest_of(rows: Any, number: int, by_value: bool = True) -> str:
    """A digest of rows: names, types and shapes and, with `by_value`, numbers and texts."""
    digest = hashlib.sha256(f"{number} rows".encode())
    for row in rows:
        cells = row if isinstance(row, Mapping) else dict(enumerate(_entries(row)))
        for name in sorted(cells, key=str):
            digest.update(f" {name} ".encode())
            for piece in _pieces(cells[name], by_value):
                digest.update(piece)
    return digest.hexdigest()


def _entries(row: object) -> Sequence[Any]:
    return row if isinstance(row, (tuple, list)) else (row,)


def _pieces(cell: object, by_value: bool) -> Iterator[bytes]:
    """Yield the bytes of a cell for a digest. Objects of other types are hashed by type only."""
    if isinstance(cell, (str, bytes)):
        text = cell.encode() if isinstance(cell, str) else cell
        yield b"text " + (text if by_value else b"")
        return
    try:
        tensor = torch.as_tensor(cell).detach().cpu().contiguous()
    except (TypeError, ValueError, RuntimeError):
        plain = isinstance(cell, (list, tuple, dict, type(None))) and by_value
        yield repr(cell).encode() if plain else type(cell).__name__.encode()
        return
    yield f"{tensor.dtype} {tuple(tensor.shape)} ".encode()
    if by_value and tensor.numel():
        yield tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


def _length(row: Mapping[str, Any]) -> int:
    """The number of token ids of a row; at least 1, since every sample has a cost."""
    return _count(row["input_ids"])


def _count(ids: object) -> int:
    """The number of token ids in a cell, 1 for a single id; at least 1."""
    try:
        return max(1, len(ids))  # type: ignore[arg-type]
    except TypeError:  # a number, or a tensor without axes, which has a useless `__len__`
        return 1


def _token_counts(rows: Any, first: int) -> np.ndarray:
    """[N], the number of token ids of each row of a table; `first` for rows of other data sets."""
    if not hasattr(rows, "column_names"):
        return np.full(len(rows), first, dtype=np.int64)
    ids = rows.select_columns("input_ids").with_format(None)[:]["input_ids"]
    return np.array([_count(each) for each in ids], dtype=np.int64)
