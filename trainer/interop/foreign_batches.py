"""Converts flat batches for transformers' models: to padded rows, or to one row with all texts.

The letters in shapes: B texts, T tokens in all texts, L tokens in the longest text, D channels.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainer.models.packing import Layout

LONGEST_ROW = 8192
"""The maximum number of tokens in a packed row; the attention mask of n tokens has n^2 entries."""


@dataclass(frozen=True)
class Padded:
    """A batch as rows [B, L], padded at their ends."""

    inputs: dict[str, Any]
    layout: Layout

    def rows(self, grid: Tensor) -> Tensor:
        """Remove the pads from outputs: [B, L or more, ...] -> [T, ...]."""
        return self.layout.from_grid(grid[:, : self.layout.longest])


@dataclass(frozen=True)
class Packed:
    """A batch as one row [1, T], in which the positions restart at each text."""

    inputs: dict[str, Any]

    def rows(self, grid: Tensor) -> Tensor:
        """Remove the axis of rows from outputs: [1, T, ...] -> [T, ...]."""
        return grid[0]


def padded(
    ids: Tensor,
    layout: Layout,
    pad: int,
    argument_names: Collection[str],
    types: Tensor | None = None,
) -> Padded:
    """Convert a batch to padded rows; `argument_names` are the arguments that the model accepts."""
    mask = layout.to_grid(torch.ones_like(ids))
    inputs: dict[str, Any] = {
        "input_ids": layout.to_grid(ids).masked_fill(mask == 0, pad),
        "attention_mask": mask,
    }
    if types is not None and "token_type_ids" in argument_names:
        inputs["token_type_ids"] = layout.to_grid(types)
    return Padded({**inputs, **_uncached(argument_names)}, layout)


def packed(ids: Tensor, layout: Layout, argument_names: Collection[str]) -> Packed:
    """Convert a batch to one row without pads."""
    positions = torch.cat([torch.arange(length) for length in layout.lengths.tolist()])
    inputs = {"input_ids": ids.unsqueeze(0), "position_ids": positions.to(ids.device).unsqueeze(0)}
    return Packed({**inputs, **_uncached(argument_names)})


def costs_less_packed(layout: Layout, channels: int) -> bool:
    """Whether one packed row needs fewer operations than padded rows.

    A layer's matrices need about 24 D^2 operations per token, and its attention needs 4 D
    operations per pair of tokens in a row, where D is `channels`. In a packed row, there are also
    pairs of tokens from different texts.
    """
    tokens, cells = layout.num_tokens, layout.num_sequences * layout.longest
    if layout.num_sequences == 1 or tokens > LONGEST_ROW:
        return False
    equal = 6 * channels  # the row length at which matrices and attention cost the same
    return tokens * (1 + tokens / equal) < cells * (1 + layout.longest / equal)


def _uncached(argument_names: Collection[str]) -> dict[str, bool]:
    return {"use_cache": False} if "use_cache" in argument_names else {}
