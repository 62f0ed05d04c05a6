"""Rotary position embeddings (Su et al., 2021): queries and keys turned by their positions."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainer.models.leaves import Leaf, runs_compiled


def angles(position_ids: Tensor, channels: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines, fp32 [T, channels / 2], of position_ids [T]."""
    exponents = torch.arange(0, channels, 2, device=position_ids.device).float() / channels
    turns = position_ids.float().unsqueeze(1) * (1.0 / theta**exponents)
    return turns.cos(), turns.sin()


def rotate(x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """x [T, heads x channels] turned: channel c of a head goes with c + channels / 2."""
    return _Rotate.apply(x, *turns) if runs_compiled(x) else _turned(x, *turns)


def _turned(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    cosines, sines = cosines.unsqueeze(1), sines.unsqueeze(1)
    wide = x if x.dtype == torch.float64 else x.float()
    one, other = wide.unflatten(1, (-1, 2 * cosines.shape[-1])).chunk(2, -1)
    turned = torch.cat((one * cosines - other * sines, other * cosines + one * sines), -1)
    return turned.flatten(1).to(x.dtype)


def _turned_back(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    return _turned(x, cosines, -sines)


TURNED, TURNED_BACK = Leaf(_turned), Leaf(_turned_back)


class _Rotate(torch.autograd.Function):
    """A turn is undone by the turn back, which is its transpose: the input is not kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        ctx.save_for_backward(cosines, sines)
        return TURNED(x, cosines, sines)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return TURNED_BACK(grad, *ctx.saved_tensors), None, None
