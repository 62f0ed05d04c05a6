"""Causal attention in blocks of queries, recomputed in the backward pass.

It is used on CPUs, and for capped scores on any device.

Dimensions: a group has b sequences of at most L tokens; G query heads share each of the K key heads
of C channels.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainer.models.blocks.autograd import AutogradContext
from trainer.models.blocks.kept_tensors import kept_tensors
from trainer.models.blocks.softcap import cap_, slope_of
from trainer.models.packing import Layout

BLOCK = 128
"""The number of queries per block. Only one block's scores are in memory, few of them masked."""


def causal_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    scale: float,
    window: int | None,
    softcap: float | None = None,
) -> Tensor:
    """query [T, K x G, C], key and value [T, K, C] -> [T, K x G, C], within each sequence.

    With `window`, a token sees itself and the `window` tokens before it. With `softcap` c, a score
    s becomes c tanh(s / c). Sequences of similar lengths are computed together. The probabilities
    are not saved: the backward pass recomputes each block (Dao et al., 2022), which is faster on a
    CPU than reading saved probabilities.
    """
    if torch.compiler.is_compiling():
        sides = -1 if window is None else window
        return _in_graph(query, key, value, layout.lengths, scale, sides, softcap or 0.0)
    return _CausalAttention.apply(query, key, value, layout, scale, window, softcap)


class _CausalAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: AutogradContext,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        layout: Layout,
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.arguments = layout, scale, window, softcap
        return _forward(query, key, value, layout, scale, window, softcap)

    @staticmethod
    @once_differentiable
    def backward(ctx: AutogradContext, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        return *_backward(grad, query, key, value, *ctx.arguments), *(None,) * 4


def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    context = torch.empty_like(query)
    for group in layout.length_groups:
        q, k, v = (_by_key_head(group.take(x), key.shape[1]) for x in (query * scale, key, value))
        out = torch.empty_like(q)
        for rows, seen, mask in _blocks(q, window):
            scores = _scores(q[:, :, rows], k[:, :, seen], softcap)
            weights = _probabilities(scores, mask)
            out[:, :, rows] = (weights @ _flat(v[:, :, seen])).view_as(out[:, :, rows])
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
    softcap: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    inputs = query * scale, key, value
    num_key_heads = key.shape[1]
    gradients = [torch.empty_like(x) for x in inputs]
    for group in layout.length_groups:
        q, k, v = (_by_key_head(group.take(x), num_key_heads) for x in inputs)
        g = _by_key_head(group.take(grad, pads=0), num_key_heads)
        for whole, part in zip(gradients, _gradients(q, k, v, g, window, softcap), strict=True):
            group.put(whole, _by_token(part))
    gradients[0].mul_(scale)
    return gradients[0], gradients[1], gradients[2]


@torch.library.custom_op("tempering::causal_blocks", mutates_args=())
def _in_graph(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Tensor,
    scale: float,
    window: int,
    softcap: float,
) -> Tensor:
    """`causal_attention` as one operation of a compiled graph; window -1 or cap 0 means none.

    `lengths` [B] are on the CPU.
    """
    return _forward(query, key, value, *_arguments(query, lengths, scale, window, softcap))


@torch.library.custom_op("tempering::causal_blocks_backward", mutates_args=())
def _in_graph_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Tensor,
    scale: float,
    window: int,
    softcap: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return _backward(grad, query, key, value, *_arguments(query, lengths, scale, window, softcap))


def _arguments(
    query: Tensor, lengths: Tensor, scale: float, window: int, softcap: float
) -> tuple[Layout, float, int | None, float | None]:
    return Layout(lengths, query.device), scale, None if window < 0 else window, softcap or None


@_in_graph.register_fake
def _(query: Tensor, *_: object) -> Tensor:
    return query.new_empty(query.shape)


@_in_graph_backward.register_fake
def _(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: object) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape) for x in (query, key, value))


def _save(ctx: AutogradContext, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.scale, ctx.window, ctx.softcap = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: AutogradContext, grad: Tensor) -> tuple[Tensor | None, ...]:
    numbers = ctx.scale, ctx.window, ctx.softcap
    return *_in_graph_backward(grad, *ctx.saved_tensors, *numbers), *(None,) * 4


_in_graph.register_autograd(_differentiate, setup_context=_save)


def _gradients(
    q: Tensor, k: Tensor, v: Tensor, grad: Tensor, window: int | None, softcap: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of queries [b, K, L, G, C] and of keys and values [b, K, L, 1, C]."""
    wide = torch.promote_types(k.dtype, torch.float32)  # keys accumulate over many blocks
    grad_q = torch.empty_like(q)
    grad_k, grad_v = torch.zeros_like(k, dtype=wide), torch.zeros_like(v, dtype=wide)
    for rows, seen, mask in _blocks(q, window):
        queries, upstream = _flat(q[:, :, rows]), _flat(grad[:, :, rows])
        keys, values = _flat(k[:, :, seen]), _flat(v[:, :, seen])
        scores = _scores(q[:, :, rows], k[:, :, seen], softcap)
        slope = None if softcap is None else slope_of(scores, softcap)
        weights = _probabilities(scores, mask)
        _flat(grad_v[:, :, seen]).add_(weights.transpose(-1, -2) @ upstream)
        grad_scores = torch._softmax_backward_data(
            upstream @ values.transpose(-1, -2), weights, -1, weights.dtype
        )
        if slope is not None:
            grad_scores = grad_scores * slope
        grad_q[:, :, rows] = (grad_scores @ keys).view_as(grad_q[:, :, rows])
        _flat(grad_k[:, :, seen]).add_(grad_scores.transpose(-1, -2) @ queries)
    return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype)


def _blocks(q: Tensor, window: int | None) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield each block of q [b, K, L, G, C]: its rows, the keys they see, and the last keys' mask.

    The mask covers only the last keys, since every row sees all earlier keys.
    """
    length, queries_per_key = q.shape[2:4]
    for start in range(0, length, BLOCK):
        end = min(start + BLOCK, length)
        before = 0 if window is None else min(start, window)
        mask = _mask(end - start, before, window, queries_per_key, q.dtype, q.device)
        yield slice(start, end), slice(0 if window is None else start - before, end), mask


@kept_tensors(maxsize=256)
def _mask(
    rows: int,
    before: int,
    window: int | None,
    copies: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """[rows x copies, before + rows]: -inf where a row does not see a key, 0 elsewhere.

    The keys are the `before` keys preceding the first row, then the rows themselves. Layers share
    the mask.
    """
    row = torch.arange(before, before + rows, device=device).unsqueeze(1)
    key = torch.arange(before + rows, device=device)
    hidden = key > row
    if window is not None:
        hidden |= key < row - window
    mask = torch.zeros(hidden.shape, dtype=dtype, device=device)
    return mask.masked_fill_(hidden, -torch.inf).repeat_interleave(copies, 0)


def _scores(q: Tensor, k: Tensor, softcap: float | None) -> Tensor:
    """[b, K, rows x G, keys], before the mask."""
    scores = _flat(q) @ _flat(k).transpose(-1, -2)
    return cap_(scores, softcap)


def _probabilities(scores: Tensor, mask: Tensor) -> Tensor:
    """The softmax over the keys; the scores are overwritten."""
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
