"""Rotary position embeddings (Su et al., 2021)."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainer.models.blocks.autograd import AutogradContext
from trainer.models.blocks.leaves import Leaf, runs_compiled

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines, fp32 [T, R / 2], of R channels of a head"""


def angles(position_ids: Tensor, channels: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines, fp32 [T, channels / 2], for position_ids [T]."""
    exponents = torch.arange(0, channels, 2, device=position_ids.device).float() / channels
    rotation = position_ids.float().unsqueeze(1) * (1.0 / theta**exponents)
    return rotation.cos(), rotation.sin()


def rotate(
    x: Tensor, rotation: Rotation, channels: int | None = None, neighbours: bool = False
) -> Tensor:
    """Rotate the first R channels of each head of x [T, heads x channels], by default all of them.

    Channel c is paired with channel c + R / 2, or with `neighbours` channel 2 c with 2 c + 1.
    """
    channels = 2 * rotation[0].shape[-1] if channels is None else channels
    if runs_compiled(x):
        return _Rotate.apply(x, *rotation, channels, neighbours)
    return _rotated(x, *rotation, channels, neighbours)


def _rotated(x: Tensor, cosines: Tensor, sines: Tensor, channels: int, neighbours: bool) -> Tensor:
    cosines, sines, rotated = cosines.unsqueeze(1), sines.unsqueeze(1), 2 * cosines.shape[-1]
    wide = (x if x.dtype == torch.float64 else x.float()).unflatten(1, (-1, channels))
    turned, kept = wide[..., :rotated], wide[..., rotated:]
    pairs = turned.unflatten(-1, (-1, 2)).unbind(-1) if neighbours else turned.chunk(2, -1)
    one, other = pairs
    pairs = one * cosines - other * sines, other * cosines + one * sines
    turned = torch.stack(pairs, -1).flatten(2) if neighbours else torch.cat(pairs, -1)
    whole = turned if rotated == channels else torch.cat((turned, kept), -1)
    return whole.flatten(1).to(x.dtype)


def _rotated_back(
    x: Tensor, cosines: Tensor, sines: Tensor, channels: int, neighbours: bool
) -> Tensor:
    return _rotated(x, cosines, -sines, channels, neighbours)


ROTATED, ROTATED_BACK = Leaf(_rotated), Leaf(_rotated_back)


class _Rotate(torch.autograd.Function):
    """`rotate`; the backward pass rotates the gradient back, so that the input is not saved."""

    @staticmethod
    def forward(
        ctx: AutogradContext,
        x: Tensor,
        cosines: Tensor,
        sines: Tensor,
        channels: int,
        neighbours: bool,
    ) -> Tensor:
        ctx.save_for_backward(cosines, sines)
        ctx.layout = channels, neighbours
        return ROTATED(x, cosines, sines, channels, neighbours)

    @staticmethod
    @once_differentiable
    def backward(ctx: AutogradContext, grad: Tensor) -> tuple[Tensor | None, ...]:
        return ROTATED_BACK(grad, *ctx.saved_tensors, *ctx.layout), *(None,) * 4
