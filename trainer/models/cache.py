"""KeyValueCache: what generation keeps of the tokens so far, so that the next costs one row.

B sequences, K key heads of C channels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.models.packing import Layout

ROOM = 64
"""Columns that a full cache grows by at least."""


class KeyValueCache:
    """The keys and values of B growing sequences, one grid for each layer.

    A model that is called with it writes its tokens' keys and values behind those that are there.
    """

    def __init__(self, num_sequences: int) -> None:
        self.lengths = torch.zeros(num_sequences, dtype=torch.int64)
        """[B] on the CPU, tokens that the last finished call left here"""
        self.is_empty = True
        """Whether no sequence has any"""
        self._grids: dict[int, tuple[Tensor, Tensor]] = {}
        self._call: _Call | None = None

    def append(
        self, layer: int, key: Tensor, value: Tensor, layout: Layout
    ) -> tuple[Tensor, Tensor]:
        """key, value [T, K, C] of new tokens; returns all, [B, K, n, C], n the longest's tokens.

        The columns of a sequence that has fewer are anything behind its own.
        """
        call = self._call_of(layout)
        grids = self._with_room(layer, key, call.needed)
        for grid, new in zip(grids, (key, value), strict=True):
            grid[call.sequence, :, call.column] = new.to(grid.dtype)
        return grids[0][:, :, : call.needed], grids[1][:, :, : call.needed]

    def columns(self, layout: Layout) -> Tensor:
        """[T], the column where each new token goes: its position."""
        return self._call_of(layout).column

    def visible(self, layout: Layout, width: int, window: int | None) -> Tensor:
        """[B, L, width] bool, whether a new token of the grid [B, L] sees a column.

        It sees itself and those before it, with `window` only so many of them.
        """
        masks = self._call_of(layout).masks
        if window not in masks:
            columns = torch.arange(width, device=layout.device)
            rows = layout.to_grid(self.columns(layout)).unsqueeze(2)  # [B, L, 1]
            seen = columns <= rows
            masks[window] = seen if window is None else seen & (columns >= rows - window)
        return masks[window]

    def advance(self, layout: Layout) -> None:
        """Counts the tokens that every layer has written."""
        self._changed(self.lengths + layout.lengths)

    def keep(self, sequences: Tensor) -> None:
        """Only these sequences [b], in this order; numbers on the CPU."""
        self._changed(self.lengths[sequences])
        for layer, grids in self._grids.items():
            rows = sequences.to(grids[0].device, non_blocking=True)
            self._grids[layer] = grids[0].index_select(0, rows), grids[1].index_select(0, rows)

    def cut_back(self, length: int) -> None:
        """Forget what is behind the first `length` tokens of each sequence."""
        self._changed(self.lengths.clamp(max=length))

    def _changed(self, lengths: Tensor) -> None:
        self.lengths, self.is_empty, self._call = lengths, not lengths.any(), None

    def _call_of(self, layout: Layout) -> "_Call":
        """What the layers of one call share: computed, and sent to the device, once."""
        if self._call is None or self._call.layout is not layout:
            starts = self.lengths - (layout.lengths.cumsum(0) - layout.lengths)
            column = torch.arange(layout.num_tokens) + starts.repeat_interleave(layout.lengths)
            sequence = torch.arange(layout.num_sequences).repeat_interleave(layout.lengths)
            both = torch.stack((sequence, column)).to(layout.device, non_blocking=True)
            needed = int((self.lengths + layout.lengths).max())
            self._call = _Call(layout, both[0], both[1], needed, {})
        return self._call

    def _with_room(self, layer: int, key: Tensor, needed: int) -> tuple[Tensor, Tensor]:
        """The layer's grids with at least `needed` columns."""
        old = self._grids.get(layer)
        if old is None or old[0].shape[2] < needed:
            room = needed + max(ROOM, needed // 4)
            shape = (len(self.lengths), key.shape[1], room, key.shape[2])
            self._grids[layer] = key.new_zeros(shape), key.new_zeros(shape)
            for new, grid in zip(self._grids[layer], old or (), strict=False):
                new[:, :, : grid.shape[2]] = grid
        return self._grids[layer]


@dataclass(frozen=True)
class _Call:
    """Where the T tokens of one call of the model go."""

    layout: Layout
    sequence: Tensor
    """[T], on the device"""
    column: Tensor
    """[T], on the device"""
    needed: int
    """Columns that there are with them"""
    masks: dict[int | None, Tensor]
    """Window -> which columns the tokens see"""
