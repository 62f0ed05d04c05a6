"""Collators: functions that turn a list of rows into a batch, such as one that pads token ids."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from trainer.data.plain_rows import stacked
from trainer.data.row_seeds import preserve_rng_state, seed_rng_for_row
from trainer.errors import InputError

Collator = Callable[[list[Any]], Any]
"""A list of rows -> a mapping of column names to tensors, as for the Trainer of transformers."""
PAD = {"attention_mask": 0, "labels": -100, "special_tokens_mask": 1}
"""The pad values of columns other than input_ids. Columns not listed are padded with 0."""


def collated(
    collator: Collator, rows: Sequence[Any], numbers: np.ndarray, seed: int, epoch: int
) -> dict[str, Any]:
    """The columns that a collator returns for these rows, whose indices are `numbers`.

    The global random generators are seeded from seed, epoch and rows. Raises InputError if the
    collator does not return a mapping.
    """
    with preserve_rng_state():
        # seeded by all rows together, so the numbers depend on how the global batch is split
        seed_rng_for_row(seed, epoch, hash(tuple(numbers.tolist())))
        found = collator(list(rows))
    if not isinstance(found, Mapping) and not hasattr(found, "keys"):
        accepted = "accepted: a mapping of column names to tensors"
        raise InputError(f"data_collator: returned {type(found).__name__}; {accepted}")
    return {str(name): found[name] for name in found.keys()}  # noqa: SIM118


@dataclass(frozen=True)
class PaddingCollator:
    """Pads rows of token ids to the longest of a batch, and masks the pads.

    Columns with one entry for each token are padded too, labels with -100; others are stacked.
    """

    pad_id: int = 0
    left: bool = False
    """Whether pads are put at the start."""

    def __call__(self, rows: list[Any]) -> dict[str, Any]:
        lengths = [len(row["input_ids"]) for row in rows]
        rows = [{"attention_mask": [1] * n, **row} for n, row in zip(lengths, rows, strict=True)]
        if len(set(lengths)) == 1:
            return {name: stacked(rows, name) for name in rows[0]}
        return {name: self._column(rows, name, lengths) for name in rows[0]}

    def _column(self, rows: list[dict[str, Any]], name: str, lengths: list[int]) -> object:
        along_tokens = all(
            name in row and hasattr(row[name], "__len__") and len(row[name]) == length
            for row, length in zip(rows, lengths, strict=True)
        )
        if not along_tokens or isinstance(rows[0][name], str):
            return stacked(rows, name)
        longest = max(lengths)
        pad = self.pad_id if name == "input_ids" else PAD.get(name, 0)
        padded = []
        for row, length in zip(rows, lengths, strict=True):
            cell = torch.as_tensor(row[name])
            pads = cell.new_full((longest - length, *cell.shape[1:]), pad)
            padded.append(torch.cat((pads, cell) if self.left else (cell, pads)))
        return torch.stack(padded)
