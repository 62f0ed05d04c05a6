"""Attention computed in blocks of queries, forward and backward, without autograd.

Dimensions: Tq queries and Tk keys in B sequences each, H heads of C channels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.models.attention.block_masks import GridMask
from trainer.models.attention.pairs import Pairs
from trainer.models.attention.score_bias import GridBias, ScoreBias
from trainer.models.blocks.dropout import Dropout
from trainer.models.blocks.dropout_hash import head_keys
from trainer.models.blocks.softcap import cap_, slope_of
from trainer.models.flat_rows import Group

BLOCK = 128
"""Queries per block. Only one block's scores [b, H, BLOCK, keys] are in memory at a time."""


@dataclass(frozen=True)
class Task:
    """All arguments but query, key and value. Of these, only the bias's tables get gradients."""

    pairs: Pairs
    scale: float
    bias: ScoreBias | None
    softcap: float | None
    dropout: Dropout | None
    dropout_keys: Tensor | None


def attend(query: Tensor, key: Tensor, value: Tensor, task: Task) -> Tensor:
    """query [Tq, H, C], key and value [Tk, H, C] -> [Tq, H, C]."""
    context = torch.empty_like(query)
    with torch.autocast(query.device.type, enabled=False):
        for grid in _grids(query, key, value, task):
            out = _joined([_attended(part) for part in grid.parts()])
            grid.queries.put(context, out.transpose(1, 2))
    return context


def differentiate(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, task: Task
) -> list[Tensor]:
    """The gradients of query, key, value and the bias's tables; `grad` is the output's."""
    tables = () if task.bias is None else task.bias.tables
    found = [torch.empty_like(x) for x in (query, key, value)]
    totals = [torch.zeros_like(table, dtype=_wide(table)) for table in tables]
    with torch.autocast(query.device.type, enabled=False):
        for grid in _grids(query, key, value, task):
            upstream = grid.queries.take(grad, pads=0).transpose(1, 2)
            sizes = [len(part.query) for part in grid.parts()]
            parts = [
                _gradients(part, above, totals)
                for part, above in zip(grid.parts(), upstream.split(sizes), strict=True)
            ]
            groups = grid.queries, grid.keys, grid.keys
            for group, whole, pieces in zip(groups, found, zip(*parts, strict=True), strict=True):
                group.put(whole, _joined(pieces).transpose(1, 2))
    found[0].mul_(task.scale)
    return [*found, *(t.to(table.dtype) for t, table in zip(totals, tables, strict=True))]


def _attended(grid: "_Grid") -> Tensor:
    """Return the context of a grid, [b, H, l, C]."""
    out = torch.empty_like(grid.query)
    bias = grid.bias()
    for rows in grid.blocks():
        seen = grid.seen(rows)
        weights = grid.probabilities(grid.scores(rows, seen, bias), rows, seen)
        if (kept := grid.kept(weights, rows, seen)) is not None:
            weights = weights * kept
        out[:, :, rows] = weights @ grid.value[:, :, seen]
    return out


def _gradients(
    grid: "_Grid", upstream: Tensor, totals: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of the scaled queries [b, H, l, C], keys and values.

    Adds the gradients of the bias's tables to `totals`.
    """
    grad_query = torch.empty_like(grid.query)
    grad_key, grad_value = (
        torch.zeros_like(x, dtype=_wide(x)) for x in (grid.key, grid.value)
    )  # wide, since they accumulate over many blocks
    bias = grid.bias()
    for rows in grid.blocks():
        seen, above = grid.seen(rows), upstream[:, :, rows]
        scores = grid.scores(rows, seen, bias)
        slope = None if grid.task.softcap is None else slope_of(scores, grid.task.softcap)
        weights = grid.probabilities(scores, rows, seen)
        kept = grid.kept(weights, rows, seen)
        dropped = weights if kept is None else weights * kept
        grad_value[:, :, seen] += dropped.transpose(-1, -2) @ above
        grad_weights = above @ grid.value[:, :, seen].transpose(-1, -2)
        if kept is not None:
            grad_weights = grad_weights * kept
        grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
        if slope is not None:
            grad_scores = grad_scores * slope
        query = grid.query[:, :, rows]
        grad_query[:, :, rows] = grad_scores @ grid.key[:, :, seen]
        grad_key[:, :, seen] += grad_scores.transpose(-1, -2) @ query
        if bias is not None:
            added = bias.differentiate(query, rows, grad_scores, totals)
            if added is not None:
                grad_query[:, :, rows] += added
    if bias is not None and (added := bias.key_gradient(grid.key, totals)) is not None:
        grad_key += added
    return grad_query, grad_key.to(grid.key.dtype), grad_value.to(grid.value.dtype)


@dataclass(frozen=True)
class _Grid:
    """A grid of b sequences of similar lengths, with at most l queries and s keys each."""

    queries: Group
    keys: Group
    query: Tensor
    """[b, H, l, C], scaled"""
    key: Tensor
    """[b, H, s, C]"""
    value: Tensor
    mask: GridMask
    task: Task
    dropout_keys: Tensor | None
    """[b, H, l]"""

    def parts(self) -> "Iterator[_Grid]":
        """Yield the grid, or smaller grids of its sequences, to limit the memory of a bias."""
        batch, heads, num_keys = self.key.shape[:3]
        bias = self.task.bias
        most = None if bias is None else bias.most_sequences(heads, num_keys)
        if most is None or most >= batch:
            yield self
            return
        for start in range(0, batch, most):
            place = slice(start, start + most)
            keys = None if self.dropout_keys is None else self.dropout_keys[place]
            parts = self.query[place], self.key[place], self.value[place]
            yield _Grid(self.queries, self.keys, *parts, self.mask.part(place), self.task, keys)

    def blocks(self) -> Iterator[slice]:
        length = self.query.shape[2]
        for start in range(0, length, BLOCK):
            yield slice(start, min(start + BLOCK, length))

    def bias(self) -> GridBias | None:
        """The bias added to the scores."""
        bias = self.task.bias
        return None if bias is None else bias.on_grid(self.key, self.mask.offset)

    def seen(self, rows: slice) -> slice:
        """The range of keys whose scores are computed for a block of queries."""
        return self.mask.keys_of(rows, self.key.shape[2])

    def scores(self, rows: slice, seen: slice, bias: GridBias | None) -> Tensor:
        """Return the scores [b, H, rows, seen] of a block, before the mask."""
        query = self.query[:, :, rows]
        scores = query @ self.key[:, :, seen].transpose(-1, -2)
        if bias is not None:
            scores = scores + bias.scores(query, rows)
        return cap_(scores, self.task.softcap)

    def probabilities(self, scores: Tensor, rows: slice, seen: slice) -> Tensor:
        """Return the probabilities [b, H, rows, seen] of a block."""
        scores = self.mask.apply(scores, rows, seen)
        return scores.softmax(-1, dtype=_wide(scores)).to(self.value.dtype)

    def kept(self, weights: Tensor, rows: slice, seen: slice) -> Tensor | None:
        """The factors by which dropout multiplies the weights of a block."""
        dropout = self.task.dropout
        if dropout is None or self.dropout_keys is None:
            return None
        whole = weights.new_empty(()).expand(*weights.shape[:-1], self.key.shape[2])
        return dropout.mask(whole, self.dropout_keys[:, :, rows])[..., seen] * dropout.scale


def _grids(query: Tensor, key: Tensor, value: Tensor, task: Task) -> Iterator[_Grid]:
    pairs = task.pairs
    for queries, keys, offset in pairs.groups:
        grid_keys = None
        if task.dropout is not None and task.dropout_keys is not None:
            grid_keys = head_keys(queries.take(task.dropout_keys), query.shape[1])
        yield _Grid(
            queries,
            keys,
            (queries.take(query) * task.scale).transpose(1, 2),
            keys.take(key).transpose(1, 2),
            keys.take(value).transpose(1, 2),
            _mask(pairs, keys, offset),
            task,
            grid_keys,
        )


def _mask(pairs: Pairs, keys: Group, offset: int) -> GridMask:
    """The mask of a group of sequences."""
    if pairs.mask is not None:
        return GridMask(pairs=pairs.mask)
    visible = keys.kept
    if pairs.keys.visible is not None:
        seen = keys.take(pairs.keys.visible)
        visible = seen if visible is None else visible & seen
    return GridMask(
        causal=pairs.causal,
        window=pairs.window,
        offset=offset,
        hidden=None if visible is None else ~visible[:, None, None],
        columns=None if pairs.columns is None else keys.take(pairs.columns),
    )


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(tuple(parts))


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
