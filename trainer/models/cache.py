"""KeyValueCache: what generation keeps of the tokens so far, so that the next costs one row.

B sequences, K key heads of C channels.
"""

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
        self._grids: dict[int, tuple[Tensor, Tensor]] = {}

    def append(
        self, layer: int, key: Tensor, value: Tensor, layout: Layout
    ) -> tuple[Tensor, Tensor]:
        """key, value [T, K, C] of new tokens; returns all, [B, K, n, C], n the longest's tokens.

        The columns of a sequence that has fewer are anything behind its own.
        """
        needed = int((self.lengths + layout.lengths).max())
        grids = self._with_room(layer, key, needed)
        sequence = torch.arange(layout.num_sequences).repeat_interleave(layout.lengths)
        column = self.columns(layout)
        for grid, new in zip(grids, (key, value), strict=True):
            grid[sequence.to(key.device), :, column] = new.to(grid.dtype)
        return grids[0][:, :, :needed], grids[1][:, :, :needed]

    def columns(self, layout: Layout) -> Tensor:
        """[T], the column where each new token goes: its position."""
        starts = self.lengths - (layout.lengths.cumsum(0) - layout.lengths)
        return (torch.arange(layout.num_tokens) + starts.repeat_interleave(layout.lengths)).to(
            layout.device
        )

    def advance(self, layout: Layout) -> None:
        """Counts the tokens that every layer has written."""
        self.lengths = self.lengths + layout.lengths

    def keep(self, sequences: Tensor) -> None:
        """Only these sequences [b], in this order; numbers on the CPU."""
        self.lengths = self.lengths[sequences]
        self._grids = {
            layer: tuple(grid[sequences.to(grid.device)] for grid in grids)  # type: ignore[misc]
            for layer, grids in self._grids.items()
        }

    def cut_back(self, length: int) -> None:
        """Forget what is behind the first `length` tokens of each sequence."""
        self.lengths = self.lengths.clamp(max=length)

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
