"""The gated feed-forward network of decoders; it saves fewer tensors than autograd would.

Dimensions: T tokens, D channels, F inner channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from trainer.models.blocks.activations import ACTIVATIONS
from trainer.models.blocks.autocast import to_autocast_type
from trainer.models.blocks.autograd import AutogradContext
from trainer.models.blocks.leaves import Leaf, runs_compiled
from trainer.models.blocks.linear import Linear
from trainer.models.blocks.products import wide_product
from trainer.models.config import ModelConfig
from trainer.models.sharded import is_spread


class GatedFeedForward(nn.Module):
    """output(activation(gate(x)) * input(x)); with silu, this is SwiGLU (Shazeer, 2020)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size, inner, biases = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate = Linear(size, inner, bias=biases)
        self.input = Linear(size, inner, bias=biases)
        self.output = Linear(inner, size, bias=biases)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.is_silu = config.hidden_act == "silu"

    def forward(self, x: Tensor) -> Tensor:
        """[T, D] -> [T, D]"""
        layers = self.gate, self.input, self.output
        plain = all(type(layer) is Linear and layer.bias is None for layer in layers)
        plain = plain and not is_spread(self.gate.weight)
        if plain and self.is_silu:
            weights = (layer.weight for layer in layers)
            return _GatedFeedForward.apply(to_autocast_type(x), *weights)
        gate, x = self.gate(x), self.input(x)
        return self.output(_SiluTimes.apply(gate, x) if self.is_silu else self.activation(gate) * x)


class JoinedFeedForward(nn.Module):
    """`GatedFeedForward` with the first two projections joined; the gate's rows come first."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size, inner = config.hidden_size, config.intermediate_size
        self.gate_and_input = Linear(size, 2 * inner, bias=False)
        self.output = Linear(inner, size, bias=False)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.is_silu = config.hidden_act == "silu"

    def forward(self, x: Tensor) -> Tensor:
        """[T, D] -> [T, D]"""
        gate, x = self.gate_and_input(x).chunk(2, -1)
        return self.output(_SiluTimes.apply(gate, x) if self.is_silu else self.activation(gate) * x)


class _SiluTimes(torch.autograd.Function):
    """silu(gate) * x; the backward pass recomputes silu(gate)."""

    @staticmethod
    def forward(ctx: AutogradContext, gate: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(gate, x)
        return _silu_times(gate, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: AutogradContext, grad: Tensor) -> tuple[Tensor, Tensor]:
        return _silu_times_gradients(grad, *ctx.saved_tensors)[1:]


class _GatedFeedForward(torch.autograd.Function):
    """x [T, D], gate and input [F, D], output [D, F] -> [T, D].

    Unlike autograd under autocast, it saves neither the product [T, F] nor the weights cast to the
    dtype of x.
    """

    @staticmethod
    def forward(
        ctx: AutogradContext, x: Tensor, gate: Tensor, input: Tensor, output: Tensor
    ) -> Tensor:
        gated, wide = F.linear(x, gate.to(x.dtype)), F.linear(x, input.to(x.dtype))
        ctx.save_for_backward(x, gated, wide, gate, input, output)
        return F.linear(_silu_times(gated, wide), output.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: AutogradContext, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, gated, wide, gate, input, output = ctx.saved_tensors
        x_wanted, *wanted = ctx.needs_input_grad
        grad_product = grad @ output.to(x.dtype)
        product, grad_gated, grad_wide = _silu_times_gradients(grad_product, gated, wide)
        del grad_product
        grad_output = _weight_gradient(grad, product, output) if wanted[2] else None
        del product
        grad_gate = _weight_gradient(grad_gated, x, gate) if wanted[0] else None
        grad_input = _weight_gradient(grad_wide, x, input) if wanted[1] else None
        grad_x = None
        if x_wanted:
            grad_x = grad_gated @ gate.to(x.dtype)
            if x.device.type == "cuda":
                grad_x.addmm_(grad_wide, input.to(x.dtype))
            else:
                grad_x.add_(grad_wide @ input.to(x.dtype))
        return grad_x, grad_gate, grad_input, grad_output


def _silu_times(gate: Tensor, x: Tensor) -> Tensor:
    return SILU_TIMES(gate, x) if runs_compiled(x) else F.silu(gate).mul_(x)


def _silu_times_gradients(grad: Tensor, gate: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return silu(gate) * x, and its gradients with respect to gate and x."""
    if runs_compiled(x):
        return SILU_TIMES_GRADIENTS(grad, gate, x)
    product = F.silu(gate).mul_(x)
    return product, torch.ops.aten.silu_backward(grad * x, gate), F.silu(gate).mul_(grad)


def _fused_silu_times(gate: Tensor, x: Tensor) -> Tensor:
    return F.silu(gate.float()).mul(x.float()).to(x.dtype)


def _fused_silu_times_gradients(
    grad: Tensor, gate: Tensor, x: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    wide_grad, wide_gate, wide = grad.float(), gate.float(), x.float()
    share = torch.sigmoid(wide_gate)
    activated = wide_gate * share
    grad_gate = wide_grad * wide * (share + activated * (1 - share))
    return (
        (activated * wide).to(x.dtype),
        grad_gate.to(x.dtype),
        (wide_grad * activated).to(x.dtype),
    )


SILU_TIMES = Leaf(_fused_silu_times)
SILU_TIMES_GRADIENTS = Leaf(_fused_silu_times_gradients)


def _weight_gradient(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    product = wide_product(grad.T, x) if x.device.type == "cuda" else grad.T @ x
    return product.to(weight.dtype)
