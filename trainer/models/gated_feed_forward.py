"""The gated feed-forward network of decoders, which keeps less than autograd would."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from trainer.models.config import ModelConfig
from trainer.models.encoder import ACTIVATIONS, to_autocast_type


class GatedFeedForward(nn.Module):
    """SwiGLU (Shazeer, 2020): an activated gate times a second projection, and a third of both."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size, inner, biases = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate = nn.Linear(size, inner, bias=biases)
        self.input = nn.Linear(size, inner, bias=biases)
        self.output = nn.Linear(inner, size, bias=biases)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.is_silu = config.hidden_act == "silu"

    def forward(self, x: Tensor) -> Tensor:
        """[T, D] -> [T, D]"""
        layers = self.gate, self.input, self.output
        plain = all(type(layer) is nn.Linear and layer.bias is None for layer in layers)
        if plain and self.is_silu:
            weights = (layer.weight for layer in layers)
            return _GatedFeedForward.apply(to_autocast_type(x), *weights)
        gate, x = self.gate(x), self.input(x)
        return self.output(_SiluTimes.apply(gate, x) if self.is_silu else self.activation(gate) * x)


class _SiluTimes(torch.autograd.Function):
    """silu(gate) * x, without keeping silu(gate): it is computed once more."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(gate, x)
        return F.silu(gate).mul_(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        return _silu_times_gradients(grad, *ctx.saved_tensors)


class _GatedFeedForward(torch.autograd.Function):
    """x [T, D], gate and input [F, D], output [D, F] -> [T, D].

    Neither the product [T, F] is kept nor the weights in the type of x, which autocast would keep.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor, input: Tensor, output: Tensor) -> Tensor:
        gated, wide = F.linear(x, gate.to(x.dtype)), F.linear(x, input.to(x.dtype))
        ctx.save_for_backward(x, gated, wide, gate, input, output)
        return F.linear(F.silu(gated).mul_(wide), output.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, gated, wide, gate, input, output = ctx.saved_tensors
        x_wanted, *wanted = ctx.needs_input_grad
        product = F.silu(gated).mul_(wide)
        grad_output = _weight_gradient(grad, product, output) if wanted[2] else None
        del product
        grad_gated, grad_wide = _silu_times_gradients(grad @ output.to(x.dtype), gated, wide)
        grad_gate = _weight_gradient(grad_gated, x, gate) if wanted[0] else None
        grad_input = _weight_gradient(grad_wide, x, input) if wanted[1] else None
        grad_x = None
        if x_wanted:
            grad_x = (grad_gated @ gate.to(x.dtype)).add_(grad_wide @ input.to(x.dtype))
        return grad_x, grad_gate, grad_input, grad_output


def _silu_times_gradients(grad: Tensor, gate: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Those of silu(gate) * x by gate and by x."""
    return torch.ops.aten.silu_backward(grad * x, gate), F.silu(gate).mul_(grad)


def _weight_gradient(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    return (grad.T @ x).to(weight.dtype)
