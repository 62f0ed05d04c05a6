"""Causal attention on a CPU: blocks of queries over the keys that they see, computed once more.

A group holds b sequences of at most L tokens; K key heads of C channels, each shared by G query
heads.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainer.models.packing import Layout

BLOCK = 128
"""Queries of a block: its scores are all that exist at a time, and few are above the diagonal."""


def causal_attention(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float, window: int | None
) -> Tensor:
    """query [T, K x G, C], key and value [T, K, C] -> [T, K x G, C], inside each sequence.

    With `window` a token sees itself and the `window` before it. Sequences of similar lengths are
    computed together. The probabilities are not kept: the backward pass computes each block once
    more (Dao et al., 2022), which on a CPU costs less time than autograd's passes over them.
    """
    if torch.compiler.is_compiling():
        return _in_graph(query, key, value, layout.lengths, scale, -1 if window is None else window)
    return _CausalAttention.apply(query, key, value, layout, scale, window)


class _CausalAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        layout: Layout,
        scale: float,
        window: int | None,
    ) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.arguments = layout, scale, window
        return _forward(query, key, value, layout, scale, window)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        return *_backward(grad, query, key, value, *ctx.arguments), None, None, None


def _forward(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float, window: int | None
) -> Tensor:
    context = torch.empty_like(query)
    for group in layout.length_groups:
        q, k, v = (_by_key_head(group.take(x), key.shape[1]) for x in (query * scale, key, value))
        out = torch.empty_like(q)
        for here, seen, mask in _blocks(q, window):
            weights = _probabilities(q[:, :, here], k[:, :, seen], mask)
            out[:, :, here] = (weights @ _flat(v[:, :, seen])).view_as(out[:, :, here])
        group.put(context, _by_token(out))
    return context


def _backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    scale: float,
    window: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    inputs = query * scale, key, value
    num_key_heads = key.shape[1]
    gradients = [torch.empty_like(x) for x in inputs]
    for group in layout.length_groups:
        q, k, v = (_by_key_head(group.take(x), num_key_heads) for x in inputs)
        g = _by_key_head(group.take(grad, pads=0), num_key_heads)
        for whole, part in zip(gradients, _gradients(q, k, v, g, window), strict=True):
            group.put(whole, _by_token(part))
    gradients[0].mul_(scale)
    return gradients[0], gradients[1], gradients[2]


@torch.library.custom_op("tempering::causal_blocks", mutates_args=())
def _in_graph(
    query: Tensor, key: Tensor, value: Tensor, lengths: Tensor, scale: float, window: int
) -> Tensor:
    """`causal_attention` as one operation of a compiled graph; a window of -1 is none."""
    return _forward(query, key, value, *_arguments(lengths, scale, window))


@torch.library.custom_op("tempering::causal_blocks_backward", mutates_args=())
def _in_graph_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Tensor,
    scale: float,
    window: int,
) -> tuple[Tensor, Tensor, Tensor]:
    return _backward(grad, query, key, value, *_arguments(lengths, scale, window))


def _arguments(lengths: Tensor, scale: float, window: int) -> tuple[Layout, float, int | None]:
    return Layout(lengths, lengths.device), scale, None if window < 0 else window


@_in_graph.register_fake
def _(query: Tensor, *_: Any) -> Tensor:
    return query.new_empty(query.shape)


@_in_graph_backward.register_fake
def _(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape) for x in (query, key, value))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.scale, ctx.window = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_in_graph_backward(grad, *ctx.saved_tensors, ctx.scale, ctx.window), None, None, None


_in_graph.register_autograd(_differentiate, setup_context=_save)


def _gradients(
    q: Tensor, k: Tensor, v: Tensor, grad: Tensor, window: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Those of a group's queries [b, K, L, G, C] and its keys and values [b, K, L, 1, C]."""
    wide = torch.promote_types(k.dtype, torch.float32)  # keys gather from many blocks
    grad_q = torch.empty_like(q)
    grad_k, grad_v = torch.zeros_like(k, dtype=wide), torch.zeros_like(v, dtype=wide)
    for here, seen, mask in _blocks(q, window):
        queries, upstream = _flat(q[:, :, here]), _flat(grad[:, :, here])
        keys, values = _flat(k[:, :, seen]), _flat(v[:, :, seen])
        weights = _probabilities(q[:, :, here], k[:, :, seen], mask)
        _flat(grad_v[:, :, seen]).add_(weights.transpose(-1, -2) @ upstream)
        grad_scores = torch._softmax_backward_data(
            upstream @ values.transpose(-1, -2), weights, -1, weights.dtype
        )
        grad_q[:, :, here] = (grad_scores @ keys).view_as(grad_q[:, :, here])
        _flat(grad_k[:, :, seen]).add_(grad_scores.transpose(-1, -2) @ queries)
    return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype)


def _blocks(q: Tensor, window: int | None) -> Iterator[tuple[slice, slice, Tensor]]:
    """Of q [b, K, L, G, C]: a block's rows, the keys that they see, and `_mask` of its last keys.

    What is before those is seen by all rows.
    """
    length, queries_per_key = q.shape[2:4]
    for start in range(0, length, BLOCK):
        end = min(start + BLOCK, length)
        before = 0 if window is None else min(start, window)
        mask = _mask(end - start, before, window, queries_per_key, q.dtype)
        yield slice(start, end), slice(0 if window is None else start - before, end), mask


@lru_cache(maxsize=256)
def _mask(rows: int, before: int, window: int | None, copies: int, dtype: torch.dtype) -> Tensor:
    """[rows x copies, before + rows]: -inf where a row does not see a key, 0 elsewhere.

    The keys are the `before` in front of the first row, and the rows themselves. Layers share it.
    """
    row = torch.arange(before, before + rows).unsqueeze(1)
    key = torch.arange(before + rows)
    hidden = key > row
    if window is not None:
        hidden |= key < row - window
    mask = torch.zeros(hidden.shape, dtype=dtype)
    return mask.masked_fill_(hidden, -torch.inf).repeat_interleave(copies, 0)


def _probabilities(q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
    """[b, K, rows x G, keys]"""
    scores = _flat(q) @ _flat(k).transpose(-1, -2)
    scores[..., -mask.shape[1] :].add_(mask)
    return scores.softmax(-1)


def _by_key_head(grid: Tensor, num_key_heads: int) -> Tensor:
    """[b, L, K x G, C] -> [b, K, L, G, C], contiguous."""
    return grid.unflatten(2, (num_key_heads, -1)).transpose(1, 2).contiguous()


def _by_token(grid: Tensor) -> Tensor:
    """[b, K, L, G, C] -> [b, L, K x G, C]"""
    return grid.transpose(1, 2).flatten(2, 3)


def _flat(x: Tensor) -> Tensor:
    """[b, K, rows, G, C] -> [b, K, rows x G, C], a view."""
    return x.flatten(2, 3)
