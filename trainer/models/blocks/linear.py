"""Linear layers that need fewer kernels under autocast on CUDA.

Dimensions: T tokens; a layer has I inputs and O outputs.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from trainer.models.blocks.autograd import AutogradContext
from trainer.models.blocks.products import HALF, wide_product
from trainer.models.sharded import is_spread


class Linear(nn.Linear):
    """torch's Linear, except that under CUDA's autocast fp32 weights get fp32 gradients.

    Plain autocast would round each gradient to half precision and cast it in a separate kernel.
    """

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear` with the gradients of `Linear`."""
    dtype = narrow_type(x, weight)
    if dtype is None:
        return F.linear(x, weight, bias)
    return _Linear.apply(x.to(dtype), weight, bias)


def joined_linear(x: Tensor, layers: Sequence[nn.Module]) -> tuple[Tensor, ...]:
    """Apply each layer to x [T, I], in one joined product if that needs fewer kernels."""
    plain = all(type(layer) is Linear for layer in layers)
    dtype = narrow_type(x, layers[0].weight) if plain else None  # type: ignore[arg-type]
    if dtype is None or len({layer.bias is None for layer in layers}) > 1:
        return tuple(layer(x) for layer in layers)
    weights = [layer.weight for layer in layers]
    biases = [layer.bias for layer in layers if layer.bias is not None]
    return _Joined.apply(x.to(dtype), len(weights), *weights, *biases)


def of_rows(layer: nn.Module, rows: Tensor, keys: Tensor | None) -> Tensor:
    """Apply a layer to rows [R, I] that are not tokens; adapters' dropout uses `keys` [R]."""
    of_tokens = getattr(layer, "keys", None)
    if hasattr(layer, "keys"):
        layer.keys = keys  # type: ignore[assignment]
    found: Tensor = layer(rows)
    if hasattr(layer, "keys"):
        layer.keys = of_tokens  # type: ignore[assignment]
    return found


def narrow_type(x: Tensor, weight: Tensor) -> torch.dtype | None:
    """The half-precision dtype of CUDA's autocast, if the weight must be cast to it."""
    if x.device.type != "cuda" or not torch.is_autocast_enabled("cuda"):
        return None
    if weight.dtype != torch.float32 or torch.compiler.is_compiling() or is_spread(weight):
        return None
    dtype = torch.get_autocast_dtype("cuda")
    return dtype if dtype in HALF else None


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: AutogradContext, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        narrow = weight.to(x.dtype)
        ctx.save_for_backward(x, narrow)
        return F.linear(x, narrow, None if bias is None else bias.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: AutogradContext, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, narrow = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        flat = grad.reshape(-1, grad.shape[-1])
        return (
            grad @ narrow if wanted[0] else None,
            wide_product(flat.T, x.reshape(-1, x.shape[-1])) if wanted[1] else None,
            flat.sum(0, dtype=torch.float32) if wanted[2] else None,
        )


class _Joined(torch.autograd.Function):
    """Several layers over the same input, computed as one layer with concatenated outputs."""

    @staticmethod
    def forward(
        ctx: AutogradContext, x: Tensor, number: int, *parameters: Tensor
    ) -> tuple[Tensor, ...]:
        weights, biases = parameters[:number], parameters[number:]
        ctx.sizes = [len(weight) for weight in weights]
        ctx.has_biases = bool(biases)
        narrow = _narrow_cat(weights, x)
        ctx.save_for_backward(x, narrow)
        outputs = F.linear(x, narrow, _narrow_cat(biases, x) if biases else None)
        return outputs.split(ctx.sizes, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: AutogradContext, *grads: Tensor) -> tuple[Tensor | None, ...]:
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
    """Concatenate the parts in the dtype of x, with one kernel that casts and copies."""
    rows = sum(len(part) for part in parts)
    joined = torch.empty(rows, *parts[0].shape[1:], dtype=x.dtype, device=x.device)
    return torch.cat(list(parts), out=joined)
