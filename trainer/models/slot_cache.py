"""SlotCache: a cache of keys and values whose sequences can be added and removed at any time."""

from collections.abc import Sequence

import torch
from torch import Tensor

from trainer.models.cache import ROOM, KeyValueCache


class SlotCache(KeyValueCache):
    """The keys and values of any number of sequences, which can be added and removed.

    The grids may have spare rows and columns, so that adding a sequence or a token rarely copies
    the grids. No row has room for more tokens than the largest token limit of a sequence (see
    `join`).
    """

    def __init__(self, max_cells: int | None = None) -> None:
        """`max_cells` limits the number of rows x columns, including spare rows; None: no limit.

        The grids exceed it only if the number of sequences x the largest token limit does.
        """
        super().__init__(0)
        self._max_cells = max_cells
        self._limits: list[int] = []
        self._reserved = 0

    @property
    def cells(self) -> int:
        """The number of rows x columns of the grids, including spare ones."""
        return max((g[0].shape[0] * g[0].shape[2] for g in self.grids.values()), default=0)

    def join(self, other: KeyValueCache, limits: Sequence[int]) -> None:
        """Move the sequences of another cache of the same model to the end, in their order.

        `limits` has the maximum number of tokens of each. The other cache is emptied.
        """
        before, self._reserved = len(self.lengths), 0
        self._limits += limits
        self._set_lengths(torch.cat((self.lengths, other.lengths)))
        width = int(self.lengths.max())
        while other.grids:  # layer by layer, so that only one layer is in memory twice
            layer, grids = other.grids.popitem()
            for own, new in zip(self._grids_of_size(layer, grids, width), grids, strict=True):
                columns = min(width, new.shape[2])
                rows = own[before : len(self.lengths)]
                rows[:, :, :columns] = new[:, :, :columns]
                rows[:, :, columns:] = 0  # a former sequence may have left a NaN here

    def leave(self, row: int, wipe: bool = False) -> None:
        """Remove a sequence; the last one moves to its row.

        `wipe` sets its keys and values to zero first; use it if they may not be finite. Old
        values remain in the row after the end of a shorter sequence; masks cannot hide a NaN there.
        """
        last = len(self.lengths) - 1
        if wipe:
            for grid in (grid for grids in self.grids.values() for grid in grids):
                grid[row] = 0
        if row != last:
            columns = int(self.lengths[last])
            for grids in self.grids.values():
                for grid in grids:
                    grid[row, :, :columns] = grid[last, :, :columns]
            self.lengths[row] = self.lengths[last]
            self._limits[row] = self._limits[last]
        self._limits.pop()
        self._set_lengths(self.lengths[:last].clone())
        if not last:
            self.grids.clear()  # the next sequences may be much shorter

    def reserve(self, cells: int) -> None:
        """Leave room for the cells of another cache until the next `join`.

        If the grids and these cells together exceed `max_cells`, the grids drop their spare rows.
        """
        self._reserved = cells
        if self._max_cells is None or self.cells + cells <= self._max_cells:
            return
        rows, width = len(self.lengths), int(self.lengths.max())
        for layer, grids in self.grids.items():
            self._resize(layer, grids, rows, self._columns(width))

    def _grids_of_size(
        self, layer: int, like: tuple[Tensor, Tensor], needed: int
    ) -> tuple[Tensor, Tensor]:
        """The layer's grids with a row for each sequence and at least `needed` columns.

        New grids fit the present sequences, not the largest numbers of rows and of columns so far,
        which may have occurred at different times.
        """
        rows, old = len(self.lengths), self.grids.get(layer)
        if old is None or old[0].shape[0] < rows or old[0].shape[2] < needed:
            columns, spare = self._columns(needed), rows // 4
            if self._max_cells is not None:
                most = (self._max_cells - self._reserved) // columns
                spare = max(0, min(spare, most - rows))
            self._resize(layer, like, rows + spare, columns)
        return self.grids[layer]

    def _columns(self, needed: int) -> int:
        """The number of columns of new grids if the longest sequence has `needed` tokens."""
        return min(needed + max(ROOM, needed // 4), max(needed, *self._limits))

    def _resize(self, layer: int, like: tuple[Tensor, Tensor], rows: int, columns: int) -> None:
        """Give a layer grids of a new size, with the old contents.

        Heads, channels, dtype and device are those of `like`.
        """
        new = tuple(x.new_zeros((rows, x.shape[1], columns, x.shape[3])) for x in like)
        for grid, kept in zip(new, self.grids.get(layer, ()), strict=False):
            kept = kept[:rows, :, :columns]
            grid[: kept.shape[0], :, : kept.shape[2]] = kept
        self.grids[layer] = new[0], new[1]

    def _with_room(self, layer: int, key: Tensor, needed: int) -> tuple[Tensor, Tensor]:
        old = self.grids.get(layer)
        like = (key.unsqueeze(2),) * 2 if old is None else old
        rows = len(self.lengths)
        keys, values = self._grids_of_size(layer, (like[0], like[1]), needed)
        return keys[:rows], values[:rows]
