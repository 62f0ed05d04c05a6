"""Dropout, optionally with a residual sum, in one kernel per pass; masks are not saved."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainer.models.blocks.autograd import AutogradContext
from trainer.models.blocks.dropout_hash import draw_bits
from trainer.models.blocks.leaves import Leaf


class Draws(NamedTuple):
    """The inputs that determine a mask [..., C]; all are tensors, so that sites share one graph."""

    keys: Tensor
    """int32 [...], the key of each token"""
    columns: Tensor
    """int32 [C], the hash of each channel"""
    site: Tensor
    """int32 scalar, the hash of the dropout's site"""
    threshold: Tensor
    """int32 scalar; channels whose draws are below it are dropped"""
    scale: Tensor
    """fp32 scalar, the factor of kept channels"""


def dropped(x: Tensor, draws: Draws) -> Tensor:
    """Return dropout(x)."""
    return _Dropped.apply(x, *draws)


def dropped_sum(residual: Tensor, x: Tensor, draws: Draws) -> Tensor:
    """Return residual + dropout(x)."""
    return _DroppedSum.apply(residual, x, *draws)


def keep(x: Tensor, draws: Draws) -> Tensor:
    """Return x [..., C] in fp32, with dropped channels zeroed and the others scaled."""
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
    def forward(ctx: AutogradContext, x: Tensor, *draws: Tensor) -> Tensor:
        ctx.save_for_backward(*draws)
        return KEPT(x, *draws)

    @staticmethod
    @once_differentiable
    def backward(ctx: AutogradContext, grad: Tensor) -> tuple[Tensor | None, ...]:
        return KEPT(grad, *ctx.saved_tensors), *(None,) * 5


class _DroppedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: AutogradContext, residual: Tensor, x: Tensor, *draws: Tensor) -> Tensor:
        ctx.save_for_backward(*draws)
        ctx.dtype = x.dtype
        return KEPT_SUM(residual, x, *draws)

    @staticmethod
    @once_differentiable
    def backward(ctx: AutogradContext, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad, KEPT(grad, *ctx.saved_tensors).to(ctx.dtype), *(None,) * 5
