"""Disentangled attention (He et al., 2021), whose scores also depend on relative positions.

Dimensions: H heads of C channels; a grid has b sequences with l queries and s keys each. A table of
positions has W rows, each for one distance or a range of distances.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from trainer.models.attention.score_bias import GridBias, ScoreBias, block_distances

MOST_SCORES = 1 << 24
"""The largest number of scores between keys and positions, [b, H, s, W], that are in memory at a
time; a single sequence may exceed it.
"""


@dataclass(frozen=True)
class Distances:
    """The mapping of distances to rows of the tables.

    With `buckets`, each short distance has its own row, and longer ones up to `longest` share rows
    in logarithmic steps. Without `buckets`, each distance up to `longest` has its own row. All
    greater distances share the last row.
    """

    buckets: int | None
    longest: int

    @property
    def span(self) -> int:
        """The number of rows per direction."""
        return self.longest if self.buckets is None else self.buckets

    def rows(self, distance: Tensor) -> Tensor:
        """The rows for distances, which are key position minus query position."""
        before = -distance
        if self.buckets is not None:
            before = self._bucket(before)
        return (before + self.span).clamp(0, 2 * self.span - 1)

    def reach(self, longest: int) -> int:
        """The largest bucket in texts of `longest` tokens, which need 2 reach + 1 rows."""
        if self.buckets is None:
            return min(longest - 1, self.span)
        return min(int(self._bucket(torch.tensor(longest - 1))), self.span)

    def _bucket(self, before: Tensor) -> Tensor:
        assert self.buckets is not None
        exact = self.buckets // 2
        away = before.abs()
        # fp32, as in the models' training: rounding determines where a bucket ends
        last = torch.full((), (self.longest - 1) / exact, device=away.device).log()
        power = torch.log(away.clamp(min=exact) / exact) / last * (exact - 1)
        shared = torch.ceil(power).long() + exact
        return torch.where(away <= exact, before, shared * before.sign())


@dataclass(frozen=True)
class DisentangledBias(ScoreBias):
    """Scores of queries with the positions of keys, and of keys with the positions of queries."""

    position_keys: Tensor | None
    """[H, W, C], for the scores of queries; None: there are no such scores"""
    position_queries: Tensor | None
    """[H, W, C], scaled, for the scores of keys; None: there are no such scores"""
    distances: Distances
    first_row: int = 0
    """The row of the model's full tables at which these sliced tables begin"""

    @property
    def tables(self) -> tuple[Tensor, ...]:
        return tuple(t for t in (self.position_keys, self.position_queries) if t is not None)

    @property
    def numbers(self) -> list[int]:
        has_keys, has_queries = (
            int(t is not None) for t in (self.position_keys, self.position_queries)
        )
        buckets = self.distances.buckets
        return [
            has_keys,
            has_queries,
            -1 if buckets is None else buckets,
            self.distances.longest,
            self.first_row,
        ]

    @classmethod
    def rebuilt(cls, tables: Sequence[Tensor], numbers: Sequence[int]) -> Self:
        has_keys, has_queries, buckets, longest, first_row = numbers
        keys = tables[0] if has_keys else None
        queries = tables[-1] if has_queries else None
        return cls(keys, queries, Distances(None if buckets < 0 else buckets, longest), first_row)

    def rows(self, distance: Tensor) -> Tensor:
        """Rows of these tables for the given distances."""
        return self.distances.rows(distance) - self.first_row

    def scores(self, query: Tensor, key: Tensor, distance: Tensor) -> Tensor:
        rows, parts = self.rows(distance).unsqueeze(1), []
        if self.position_keys is not None:
            parts.append(_picked(query @ self.position_keys.transpose(-1, -2), rows))
        if self.position_queries is not None:
            by_row = key @ self.position_queries.transpose(-1, -2)
            parts.append(_picked(by_row, rows.transpose(-1, -2)).transpose(-1, -2))
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]

    def on_grid(self, key: Tensor, offset: int) -> GridBias:
        return _PositionsOfGrid(self, key, offset)

    def most_sequences(self, num_heads: int, num_keys: int) -> int | None:
        width = self.tables[0].shape[1]
        return max(1, MOST_SCORES // (num_heads * num_keys * width))


class _PositionsOfGrid(GridBias):
    def __init__(self, bias: DisentangledBias, key: Tensor, offset: int) -> None:
        self.bias, self.offset, self.num_keys = bias, offset, key.shape[2]
        self._of_keys: Tensor | None = None
        self._grad_of_keys: Tensor | None = None
        if bias.position_queries is not None:
            self._of_keys = key @ bias.position_queries.transpose(-1, -2)  # [b, H, s, W]

    def scores(self, query: Tensor, rows: slice) -> Tensor:
        picked, added = self._rows(rows, query.device), None
        if self.bias.position_keys is not None:
            added = _picked(query @ self.bias.position_keys.transpose(-1, -2), picked)
        if self._of_keys is not None:
            of_keys = _picked(self._of_keys, picked.T).transpose(-1, -2)
            added = of_keys if added is None else added + of_keys
        assert added is not None
        return added

    def differentiate(
        self, query: Tensor, rows: slice, grad: Tensor, totals: list[Tensor]
    ) -> Tensor | None:
        picked, table = self._rows(rows, query.device), self.bias.position_keys
        if self._of_keys is not None:
            if self._grad_of_keys is None:
                self._grad_of_keys = torch.zeros_like(self._of_keys, dtype=totals[-1].dtype)
            _add_picked(self._grad_of_keys, grad.transpose(-1, -2), picked.T)
        if table is None:
            return None
        by_row = grad.new_zeros(*query.shape[:3], table.shape[1], dtype=totals[0].dtype)
        _add_picked(by_row, grad, picked)
        by_row = by_row.to(query.dtype)
        totals[0] += (by_row.transpose(-1, -2) @ query).sum(0, dtype=totals[0].dtype)
        return by_row @ table

    def key_gradient(self, key: Tensor, totals: list[Tensor]) -> Tensor | None:
        table, by_row = self.bias.position_queries, self._grad_of_keys
        if table is None or by_row is None:
            return None
        by_row = by_row.to(key.dtype)
        totals[-1] += (by_row.transpose(-1, -2) @ key).sum(0, dtype=totals[-1].dtype)
        return by_row @ table

    def _rows(self, rows: slice, device: torch.device) -> Tensor:
        """[queries, s], the row of the bias's tables for each query of the slice and each key."""
        keys = slice(0, self.num_keys)
        return self.bias.rows(block_distances(rows, keys, self.offset, device))


def _picked(by_row: Tensor, rows: Tensor) -> Tensor:
    """by_row [b, H, x, W], rows [..., x, y] -> [b, H, x, y], the value of each pair."""
    return by_row.gather(-1, rows.expand(*by_row.shape[:2], *rows.shape[-2:]))


def _add_picked(by_row: Tensor, grad: Tensor, rows: Tensor) -> None:
    """The backward pass of `_picked`: add `grad` [b, H, x, y] to `by_row` [b, H, x, W]."""
    by_row.scatter_add_(-1, rows.expand(grad.shape), grad.to(by_row.dtype))
