"""FlashAttention-2 (Dao, 2023) over flat sequences in Triton, with the masks of `Dropout`.

It allocates no tensor of size [L, L]. Dimensions: T tokens, L of them in the longest sequence; H
query heads and K key heads of C channels.
"""

import logging
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from trainer.models.attention import flash_trial
from trainer.models.attention.triton_device import triton_runs_on
from trainer.models.blocks.autograd import AutogradContext
from trainer.models.blocks.dropout import Dropout
from trainer.models.blocks.trials import passes
from trainer.models.packing import Layout

log = logging.getLogger("trainer")

LOG2_E = 1.4426950408889634
MOST_CHANNELS = {torch.float32: 128, torch.float16: 256, torch.bfloat16: 256}
"""Data type -> the largest number of channels per head that the kernels support."""


def flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    *,
    dropout: Dropout,
    keys: Tensor | None,
    sides: tuple[int | None, int | None] = (None, None),
    scale: float | None = None,
    softcap: float | None = None,
) -> Tensor:
    """query [T, H, C], key and value [T, K, C], dropout keys [T] -> [T, H, C].

    `sides` are the numbers of tokens that a token sees before and after itself; None: all. The
    dropout masks are those of `Dropout.mask` for `head_keys(keys)`; if `keys` is None, random
    keys are drawn from the device's generator. Scores are multiplied by `scale`, by default C^-1/2.
    With `softcap` c, a score s then becomes c tanh(s / c).
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
        query.shape[2] ** -0.5 if scale is None else scale,
        softcap or 0.0,
    )[0]


def fits_flash_kernel(
    device: torch.device, dtype: torch.dtype, channels: int, capped: bool = False
) -> bool:
    """Whether these kernels run on this device and agree with unfused attention.

    The first call for each combination of dtype, channels and `capped` (whether scores are capped)
    tries the kernels on a small batch. If they fail on a GPU, a warning says so, and another
    implementation is used.
    """
    if channels > MOST_CHANNELS.get(dtype, 0) or not triton_runs_on(device):
        if device.type == "cuda" and not capped:
            _warn_of_memory(str(dtype).removeprefix("torch."), channels)
        return False
    return _agrees(device, dtype, channels, capped)


# torch.compiler.assume_constant_result sets this attribute, which tracing a compiled model needs;
# setting it directly avoids importing Dynamo.
vars(fits_flash_kernel)["_dynamo_marked_constant"] = True


@lru_cache(maxsize=64)
def _agrees(device: torch.device, dtype: torch.dtype, channels: int, capped: bool) -> bool:
    limit = 1e-4 if dtype == torch.float32 else 0.02
    return passes(
        "attention",
        device,
        lambda: flash_trial.worst_error(flash_attention, device, dtype, channels, capped),
        limit,
    )


@lru_cache(maxsize=1)
def _warn_of_memory(dtype: str, channels: int) -> None:
    log.warning(
        "attention dropout has no Triton kernel on this GPU (%s, %d channels a head): large "
        "batches are computed in blocks of queries, and again in the backward pass; a dropout of 0 "
        "in model.config is faster",
        dtype,
        channels,
    )


def _drawn_keys(query: Tensor) -> Tensor:
    lowest, highest = -(1 << 31), 1 << 31
    return torch.randint(lowest, highest, query.shape[:1], dtype=torch.int32, device=query.device)


def _rows(x: Tensor) -> Tensor:
    """x [T, H, C] with contiguous channels; heads and tokens may be strided."""
    return x if x.stride(2) == 1 else x.contiguous()


@dataclass(frozen=True)
class Tiles:
    """The launch parameters of a Triton kernel: block sizes, warps and pipeline stages."""

    rows: int
    """Queries per block"""
    pairs: int
    """Pairs of neighboring keys per block"""
    warps: int
    stages: int


def tiles(channels: int, dtype: torch.dtype) -> tuple[Tiles, Tiles]:
    """The parameters of the kernels: (forward and gradient of queries, gradient of keys).

    They are chosen so that kernels of up to 128 channels in half precision, compiled for compute
    capabilities 8.0 and 9.0, do not spill registers.
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
    scale: float,
    softcap: float,
) -> tuple[Tensor, Tensor]:
    """Return the context [T, H, C] and log2 of the softmax denominators, fp32 [H, T]."""
    launch = _Launch(query, key, value, keys, heads, starts, longest, dropped, keep_scale)
    launch.set_window(left, right)
    launch.set_scores(scale, softcap)
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    lse = torch.empty(query.shape[1::-1], dtype=torch.float32, device=query.device)
    tile = tiles(query.shape[2], query.dtype)[0]
    grid = (_blocks(longest, tile.rows), query.shape[1], len(starts) - 1)
    launch.run("forward", grid, tile, (out, lse), scales=(launch.scale, launch.cap))
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
    scale: float,
    softcap: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of query, key and value with two kernels."""
    launch = _Launch(query, key, value, keys, heads, starts, longest, dropped, keep_scale)
    launch.set_window(left, right)
    launch.set_scores(scale, softcap)
    grad = grad.contiguous()
    delta = torch.empty_like(lse)
    grad_query, grad_key, grad_value = (
        torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (query, key, value)
    )
    by_query, by_key = tiles(query.shape[2], query.dtype)
    scales = launch.scale, scale, launch.cap
    grid = (_blocks(longest, by_query.rows), query.shape[1], len(starts) - 1)
    tensors = (out, grad, lse, delta, grad_query)
    launch.run("backward_of_queries", grid, by_query, tensors, scales)
    grid = (_blocks(longest, 2 * by_key.pairs), key.shape[1], len(starts) - 1)
    launch.run("backward_of_keys", grid, by_key, (grad, lse, delta, grad_key, grad_value), scales)
    return grad_query, grad_key, grad_value


class _Launch:
    """The arguments that all three kernels share."""

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
        self.dropout = (dropped - (1 << 15)) << 16, keep_scale
        self.group = query.shape[1] // key.shape[1]
        self.drops = heads is not None

    def set_window(self, left: int, right: int) -> None:
        """Set the window; -1 means that a side is not limited."""
        self.window = min(left, right) >= 0 or left != right
        self.sides = tuple(self.longest if side < 0 else side for side in (left, right))

    def set_scores(self, scale: float, softcap: float) -> None:
        """Set the scale and cap of scores, times log2(e) since kernels use exp2; cap 0: no cap."""
        self.scale, self.cap = scale * LOG2_E, softcap * LOG2_E

    def run(
        self,
        kernel: str,
        grid: tuple[int, int, int],
        tile: Tiles,
        tensors: tuple[Tensor, ...],
        scales: tuple[float, ...],
    ) -> None:
        """Launch a kernel of `trainer.models.attention.flash_kernels`."""
        query = self.inputs[0]
        strides = (x.stride(axis) for x in self.inputs for axis in (0, 1))
        channels = query.shape[2]
        with torch.cuda.device_of(query):  # Triton launches kernels on the current device
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
                CAPS=self.cap > 0,
                # three tf32 products are as precise as fp32; no effect in half precision
                PRECISION="tf32x3" if query.dtype == torch.float32 else "tf32",
                num_warps=tile.warps,
                num_stages=tile.stages,
            )


def _kernels() -> ModuleType:
    from trainer.models.attention import flash_kernels

    return flash_kernels


def _blocks(length: int, size: int) -> int:
    return -(-length // size)


@_forward.register_fake
def _(query: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    lse = query.new_empty((query.shape[1], query.shape[0]), dtype=torch.float32)
    return query.new_empty(query.shape), lse


@_backward.register_fake
def _(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: object) -> tuple[Tensor, ...]:
    query, key, value = (x.new_empty(x.shape) for x in (query, key, value))
    return query, key, value


def _save(ctx: AutogradContext, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, keys, heads, starts, *ctx.numbers = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(query, key, value, *output, keys, heads, starts)


def _differentiate(ctx: AutogradContext, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 13
    return *_backward(grad, *ctx.saved_tensors, *ctx.numbers), *(None,) * 10


_forward.register_autograd(_differentiate, setup_context=_save)
