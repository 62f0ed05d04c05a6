"""Dropout of a residual branch in one kernel forward and one back; nothing but keys is kept."""

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainer.models.dropout import draw_bits, mixed_columns
from trainer.models.leaves import Leaf

if TYPE_CHECKING:
    from trainer.models.dropout import Dropout


class Draws(NamedTuple):
    """What decides which channels of [..., C] are kept, as tensors: all sites share a graph."""

    keys: Tensor
    """int32 [...]"""
    columns: Tensor
    """int32 [C]"""
    site: Tensor
    """int32 scalar"""
    threshold: Tensor
    """int32 scalar: what is below is dropped"""
    scale: Tensor
    """fp32 scalar"""


def draws_of(dropout: "Dropout", keys: Tensor, channels: int) -> Draws:
    """Those of a dropout for tokens with these keys."""
    columns = mixed_columns(channels, keys.device)
    return Draws(keys, columns, *dropout.constants(keys.device))


def dropped(x: Tensor, draws: Draws) -> Tensor:
    """dropout(x)"""
    return _Dropped.apply(x, *draws)


def dropped_sum(residual: Tensor, x: Tensor, draws: Draws) -> Tensor:
    """residual + dropout(x)"""
    return _DroppedSum.apply(residual, x, *draws)


def keep(x: Tensor, draws: Draws) -> Tensor:
    """x [..., C] in fp32 with the dropped channels as zeros and the others scaled."""
    keys, columns, site, threshold, scale = draws
    kept = draw_bits(keys, columns, site) >= threshold
    return torch.where(kept, x.float() * scale, 0.0)


def _kept(x: Tensor, *draws: Tensor) -> Tensor:
    return keep(x, Draws(*draws)).to(x.dtype)


def _kept_sum(residual: Tensor, x: Tensor, *draws: Tensor) -> Tensor:
    return (residual.float() + keep(x, Draws(*draws))).to(residual.dtype)


KEPT = Leaf(_kept)
KEPT_SUM = Leaf(_kept_sum)


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *draws: Tensor) -> Tensor:
        ctx.save_for_backward(*draws)
        return KEPT(x, *draws)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return KEPT(grad, *ctx.saved_tensors), *(None,) * 5


class _DroppedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, residual: Tensor, x: Tensor, *draws: Tensor) -> Tensor:
        ctx.save_for_backward(*draws)
        ctx.dtype = x.dtype
        return KEPT_SUM(residual, x, *draws)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad, KEPT(grad, *ctx.saved_tensors).to(ctx.dtype), *(None,) * 5
