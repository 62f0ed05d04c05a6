"""Attention over flat sequences in Triton: nothing of size [L, L] is kept, and dropout is ours.

FlashAttention-2 (Dao, 2023). T tokens, H query heads over K key heads of C channels.
"""

from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from trainer.models.dropout import Dropout
from trainer.models.packing import Layout
from trainer.models.trials import passes
from trainer.models.triton_device import triton_runs_on

LOG2_E = 1.4426950408889634
MOST_CHANNELS = {torch.float32: 128, torch.float16: 256, torch.bfloat16: 256}


def flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    *,
    dropout: Dropout,
    keys: Tensor | None,
    sides: tuple[int | None, int | None] = (None, None),
) -> Tensor:
    """query [T, H, C], key and value [T, K, C], dropout keys [T] -> [T, H, C].

    `sides`: how many tokens before it and how many behind it a token sees in its sequence; None:
    all. Masks are those of `Dropout.mask` for `head_keys`; without keys, they are drawn from the
    device's generator.
    """
    dropped, keep_scale, heads = 0, 1.0, None
    if dropout.active:
        dropped, keep_scale = dropout.dropped, dropout.scale
        keys = _drawn_keys(query) if keys is None else keys
        heads = dropout.head_hashes(query.shape[1], query.device)
    return _forward(
        _rows(query),
        _rows(key),
        _rows(value),
        keys if dropout.active else None,
        heads,
        layout.cumulative_lengths,
        layout.longest,
        dropped,
        keep_scale,
        *(-1 if side is None else side for side in sides),
    )[0]


def fits_flash_kernel(device: torch.device, dtype: torch.dtype, channels: int) -> bool:
    """Whether these kernels run on this device, and give there what plain products give.

    The first call for a type of numbers and a number of channels tries them on a small batch. What
    fails is told in one warning, and the plain path is taken.
    """
    if channels > MOST_CHANNELS.get(dtype, 0) or not triton_runs_on(device):
        return False
    return _agrees(device, dtype, channels)


# What torch.compiler.assume_constant_result sets, which would import Dynamo: a compiled model asks
# when it is traced.
vars(fits_flash_kernel)["_dynamo_marked_constant"] = True


@lru_cache(maxsize=64)
def _agrees(device: torch.device, dtype: torch.dtype, channels: int) -> bool:
    from trainer.models.flash_trial import worst_error

    limit = 1e-4 if dtype == torch.float32 else 0.02
    return passes("attention", device, lambda: worst_error(device, dtype, channels), limit)


def _drawn_keys(query: Tensor) -> Tensor:
    lowest, highest = -(1 << 31), 1 << 31
    return torch.randint(lowest, highest, query.shape[:1], dtype=torch.int32, device=query.device)


def _rows(x: Tensor) -> Tensor:
    """x [T, H, C] with its channels side by side; heads and tokens may lie apart."""
    return x if x.stride(2) == 1 else x.contiguous()


@dataclass(frozen=True)
class Tiles:
    """How much a program works on at a time."""

    rows: int
    pairs: int
    warps: int
    stages: int


def tiles(channels: int, dtype: torch.dtype) -> tuple[Tiles, Tiles]:
    """Those of the forward pass and the queries' gradient, and of the keys' gradient.

    Chosen so that compiled for capabilities 8.0 and 9.0 the kernels of up to 128 channels in half
    precision keep all that they hold in registers.
    """
    if dtype == torch.float32:
        return Tiles(32, 16, 4, 1), Tiles(16, 16, 4, 1)
    if channels <= 64:
        return Tiles(128, 32, 8, 2), Tiles(32, 32, 4, 2)
    if channels <= 128:
        return Tiles(128, 32, 8, 2), Tiles(32, 32, 8, 1)
    return Tiles(32, 16, 8, 1), Tiles(16, 16, 8, 1)


@torch.library.custom_op("tempering::flash_attention", mutates_args=())
def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    keys: Tensor | None,
    heads: Tensor | None,
    starts: Tensor,
    longest: int,
    dropped: int,
    keep_scale: float,
    left: int,
    right: int,
) -> tuple[Tensor, Tensor]:
    """The context [T, H, C], and each row's log2 of the sum of its scores' powers, fp32 [H, T]."""
    launch = _Launch(query, key, value, keys, heads, starts, longest, dropped, keep_scale)
    launch.see(left, right)
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    lse = torch.empty(query.shape[1::-1], dtype=torch.float32, device=query.device)
    tile = tiles(query.shape[2], query.dtype)[0]
    grid = (_blocks(longest, tile.rows), query.shape[1], len(starts) - 1)
    launch.run("forward", grid, tile, (out, lse), scales=(launch.scale,))
    return out, lse


@torch.library.custom_op("tempering::flash_attention_backward", mutates_args=())
def _backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    keys: Tensor | None,
    heads: Tensor | None,
    starts: Tensor,
    longest: int,
    dropped: int,
    keep_scale: float,
    left: int,
    right: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of query, key and value: two kernels."""
    launch = _Launch(query, key, value, keys, heads, starts, longest, dropped, keep_scale)
    launch.see(left, right)
    grad = grad.contiguous()
    delta = torch.empty_like(lse)
    grad_query, grad_key, grad_value = (
        torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (query, key, value)
    )
    by_query, by_key = tiles(query.shape[2], query.dtype)
    scales = launch.scale, query.shape[2] ** -0.5
    grid = (_blocks(longest, by_query.rows), query.shape[1], len(starts) - 1)
    tensors = (out, grad, lse, delta, grad_query)
    launch.run("backward_of_queries", grid, by_query, tensors, scales)
    grid = (_blocks(longest, 2 * by_key.pairs), key.shape[1], len(starts) - 1)
    launch.run("backward_of_keys", grid, by_key, (grad, lse, delta, grad_key, grad_value), scales)
    return grad_query, grad_key, grad_value


class _Launch:
    """What the three kernels are called with alike."""

    def __init__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        keys: Tensor | None,
        heads: Tensor | None,
        starts: Tensor,
        longest: int,
        dropped: int,
        keep_scale: float,
    ) -> None:
        self.inputs = query, key, value
        self.masks = starts if keys is None else keys, starts if heads is None else heads, starts
        self.longest = longest
        self.scale = query.shape[2] ** -0.5 * LOG2_E
        self.dropout = (dropped - (1 << 15)) << 16, keep_scale
        self.group = query.shape[1] // key.shape[1]
        self.drops = heads is not None

    def see(self, left: int, right: int) -> None:
        """Set the window; -1 is none on that side."""
        self.window = min(left, right) >= 0 or left != right
        self.sides = tuple(self.longest if side < 0 else side for side in (left, right))

    def run(
        self,
        kernel: str,
        grid: tuple[int, int, int],
        tile: Tiles,
        tensors: tuple[Tensor, ...],
        scales: tuple[float, ...],
    ) -> None:
        """Start a kernel of `trainer.models.flash_kernels`."""
        query = self.inputs[0]
        strides = (x.stride(axis) for x in self.inputs for axis in (0, 1))
        channels = query.shape[2]
        with torch.cuda.device_of(query):  # Triton starts kernels on the current device
            getattr(_kernels(), kernel)[grid](
                *self.inputs,
                *tensors,
                *self.masks,
                *strides,
                len(query),
                *scales,
                *self.dropout,
                *self.sides,
                GROUP=self.group,
                C=channels,
                BLOCK_C=max(16, 1 << (channels - 1).bit_length()),
                ROWS=tile.rows,
                PAIRS=tile.pairs,
                DROPS=self.drops,
                WINDOW=self.window,
                # three products of tf32 have the digits of fp32; half precision ignores this
                PRECISION="tf32x3" if query.dtype == torch.float32 else "tf32",
                num_warps=tile.warps,
                num_stages=tile.stages,
            )


def _kernels() -> ModuleType:
    from trainer.models import flash_kernels

    return flash_kernels


def _blocks(length: int, size: int) -> int:
    return -(-length // size)


@_forward.register_fake
def _(query: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    lse = query.new_empty((query.shape[1], query.shape[0]), dtype=torch.float32)
    return query.new_empty(query.shape), lse


@_backward.register_fake
def _(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any) -> tuple[Tensor, ...]:
    query, key, value = (x.new_empty(x.shape) for x in (query, key, value))
    return query, key, value


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, keys, heads, starts, *ctx.numbers = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(query, key, value, *output, keys, heads, starts)


def _differentiate(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 11
    return *_backward(grad, *ctx.saved_tensors, *ctx.numbers), *(None,) * 8


_forward.register_autograd(_differentiate, setup_context=_save)
