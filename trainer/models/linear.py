"""Linear layers that under autocast on CUDA cast and differentiate in few kernels.

T tokens, I inputs and O outputs of a layer.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from trainer.models.products import HALF, wide_product


class Linear(nn.Linear):
    """torch's; under CUDA's autocast the gradients of fp32 weights are summed and kept in fp32.

    Autocast's own would be rounded to half precision and cast by a kernel of their own each.
    """

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear` as `Linear` computes it."""
    dtype = narrow_type(x, weight)
    if dtype is None:
        return F.linear(x, weight, bias)
    return _Linear.apply(x.to(dtype), weight, bias)


def joined_linear(x: Tensor, layers: Sequence[nn.Module]) -> tuple[Tensor, ...]:
    """[layer(x) for each layer], in one product where that costs fewer kernels: x [T, I]."""
    plain = all(type(layer) is Linear for layer in layers)
    dtype = narrow_type(x, layers[0].weight) if plain else None  # type: ignore[arg-type]
    if dtype is None or len({layer.bias is None for layer in layers}) > 1:
        return tuple(layer(x) for layer in layers)
    weights = [layer.weight for layer in layers]
    biases = [layer.bias for layer in layers if layer.bias is not None]
    return _Joined.apply(x.to(dtype), len(weights), *weights, *biases)


def narrow_type(x: Tensor, weight: Tensor) -> torch.dtype | None:
    """The half precision that CUDA's autocast computes in, if the weight must be cast to it."""
    if x.device.type != "cuda" or not torch.is_autocast_enabled("cuda"):
        return None
    if weight.dtype != torch.float32 or torch.compiler.is_compiling():
        return None
    dtype = torch.get_autocast_dtype("cuda")
    return dtype if dtype in HALF else None


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        narrow = weight.to(x.dtype)
        ctx.save_for_backward(x, narrow)
        return F.linear(x, narrow, None if bias is None else bias.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, narrow = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        flat = grad.reshape(-1, grad.shape[-1])
        return (
            grad @ narrow if wanted[0] else None,
            wide_product(flat.T, x.reshape(-1, x.shape[-1])) if wanted[1] else None,
            flat.sum(0, dtype=torch.float32) if wanted[2] else None,
        )


class _Joined(torch.autograd.Function):
    """Layers over the same input as one whose outputs lie side by side."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, number: int, *parameters: Tensor) -> tuple[Tensor, ...]:
        weights, biases = parameters[:number], parameters[number:]
        ctx.sizes = [len(weight) for weight in weights]
        ctx.has_biases = bool(biases)
        narrow = _narrow_cat(weights, x)
        ctx.save_for_backward(x, narrow)
        outputs = F.linear(x, narrow, _narrow_cat(biases, x) if biases else None)
        return outputs.split(ctx.sizes, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, narrow = ctx.saved_tensors
        number, wanted = len(ctx.sizes), ctx.needs_input_grad
        grad = torch.cat(grads, -1)
        nothing = (None,) * number
        weights = biases = nothing
        if any(wanted[2 : 2 + number]):
            weights = wide_product(grad.T, x).split(ctx.sizes)
        if ctx.has_biases and any(wanted[2 + number :]):
            biases = grad.sum(0, dtype=torch.float32).split(ctx.sizes)
        return (
            grad @ narrow if wanted[0] else None,
            None,
            *weights,
            *(biases if ctx.has_biases else ()),
        )


def _narrow_cat(parts: Sequence[Tensor], x: Tensor) -> Tensor:
    """The parts behind one another in the type of x, cast and copied by one kernel."""
    rows = sum(len(part) for part in parts)
    joined = torch.empty(rows, *parts[0].shape[1:], dtype=x.dtype, device=x.device)
    return torch.cat(list(parts), out=joined)
