"""Position biases of attention scores, for whole grids or for blocks of queries.

Dimensions: H heads of C channels; a grid has b sequences with l queries and s keys each.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor


class ScoreBias(ABC):
    """A bias of attention scores, computed from tables that get gradients."""

    @property
    @abstractmethod
    def tables(self) -> tuple[Tensor, ...]:
        """The tensors that get gradients, without queries and keys."""

    @property
    def numbers(self) -> list[int]:
        """The numbers from which, together with the tables, `rebuilt` restores a bias."""
        return []

    @classmethod
    @abstractmethod
    def rebuilt(cls, tables: Sequence[Tensor], numbers: Sequence[int]) -> Self:
        """The bias with these tables and numbers."""

    @abstractmethod
    def scores(self, query: Tensor, key: Tensor, distance: Tensor) -> Tensor:
        """scaled query [b, H, l, C] and key [b, H, s, C] -> a bias broadcastable to [b, H, l, s].

        `distance` [b or 1, l, s] is the number of positions from each query to each key. Autograd
        differentiates this function.
        """

    @abstractmethod
    def on_grid(self, key: Tensor, offset: int) -> "GridBias":
        """The bias of a grid with keys [b, H, s, C], without autograd.

        `offset` is the position of the first query in its sequence of keys.
        """

    def most_sequences(self, num_heads: int, num_keys: int) -> int | None:
        """The largest number of sequences to compute at a time; None: all of a grid."""
        return None


class GridBias(ABC):
    """The bias of one grid and its gradients, for one block of queries at a time."""

    @abstractmethod
    def scores(self, query: Tensor, rows: slice) -> Tensor:
        """The bias for a block of queries [b, H, rows, C], broadcastable to [b, H, rows, s]."""

    @abstractmethod
    def differentiate(
        self, query: Tensor, rows: slice, grad: Tensor, totals: list[Tensor]
    ) -> Tensor | None:
        """Add the tables' gradients to `totals`, given a gradient [b, H, rows, s].

        Returns the gradient of the queries, if there is one.
        """

    def key_gradient(self, key: Tensor, totals: list[Tensor]) -> Tensor | None:
        """Return the keys' gradient, if any; add the tables' gradients to `totals`.

        Called once after the last block; both are sums over all blocks.
        """
        return None


@dataclass(frozen=True)
class DistanceBias(ScoreBias):
    """A bias for each head and distance, as in T5 (Raffel et al., 2020)."""

    table: Tensor
    """[H, 2 n - 1]: column n - 1 + d is for a key d positions after the query"""

    @property
    def tables(self) -> tuple[Tensor, ...]:
        return (self.table,)

    @classmethod
    def rebuilt(cls, tables: Sequence[Tensor], numbers: Sequence[int]) -> Self:
        (table,) = tables
        return cls(table)

    @property
    def longest(self) -> int:
        """n, the limit of distances: they are below n in both directions."""
        return (self.table.shape[1] + 1) // 2

    def scores(self, query: Tensor, key: Tensor, distance: Tensor) -> Tensor:
        columns = (distance + self.longest - 1).clamp(0, 2 * self.longest - 2)
        return self.table[:, columns].transpose(0, 1)

    def on_grid(self, key: Tensor, offset: int) -> GridBias:
        return _DistancesOfGrid(self, key.shape[2], offset)


@dataclass(frozen=True)
class _DistancesOfGrid(GridBias):
    bias: DistanceBias
    num_keys: int
    offset: int

    def scores(self, query: Tensor, rows: slice) -> Tensor:
        table = self.bias.table
        keys = slice(0, self.num_keys)
        distance = block_distances(rows, keys, self.offset, table.device)
        return table[:, distance + self.bias.longest - 1]

    def differentiate(
        self, query: Tensor, rows: slice, grad: Tensor, totals: list[Tensor]
    ) -> Tensor | None:
        (total,) = totals
        added = _sums_of_diagonals(grad.sum(0, dtype=total.dtype))
        first = self.bias.longest - 1 - self.offset - (rows.stop - 1)
        total[:, first : first + added.shape[1]] += added
        return None


def block_distances(rows: slice, keys: slice, offset: int, device: torch.device) -> Tensor:
    """[rows, keys], the number of positions from each query of a block to each key."""
    row = torch.arange(rows.start, rows.stop, device=device).unsqueeze(1)
    return torch.arange(keys.start, keys.stop, device=device) - (row + offset)


def _sums_of_diagonals(x: Tensor) -> Tensor:
    """x [H, l, s] -> [H, l + s - 1]: column l - 1 + d is the sum over all x[:, i, i + d].

    It avoids atomic additions, so that runs are bitwise reproducible.
    """
    heads, rows, columns = x.shape
    width = rows + columns
    skewed = F.pad(x.flip(1), (0, rows)).flatten(1)[:, : rows * (width - 1)]
    return skewed.view(heads, rows, width - 1).sum(1)
