"""A mixture of experts: each token uses the feed-forward networks that the router scores highest.

Dimensions: T tokens, D channels, E experts, K experts per token, F channels inside an expert.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from trainer.models.blocks.activations import ACTIVATIONS
from trainer.models.blocks.autocast import to_autocast_type
from trainer.models.blocks.autograd import AutogradContext
from trainer.models.blocks.linear import linear
from trainer.models.config import ModelConfig


class MixtureOfExperts(nn.Module):
    """A router and the experts that it selects from (Shazeer et al., 2017).

    The weight of a selected expert is its probability among all experts, or among the
    selected ones if `normalizes` is true.
    """

    def __init__(self, config: ModelConfig, inner: int, normalizes: bool) -> None:
        super().__init__()
        self.chosen, self.normalizes = config.num_experts_per_tok, normalizes
        self.router = Router(config.hidden_size, config.num_experts)
        self.experts = Experts(config, inner)
        self.records = False
        self.routed: tuple[Tensor, Tensor] | None = None
        """The probabilities [T, E] and chosen experts [T, K] of a call, if `records` is true."""

    def forward(self, x: Tensor) -> Tensor:
        """[T, D] -> [T, D]"""
        x = to_autocast_type(x)
        logits = self.router(x)
        wide = torch.promote_types(logits.dtype, torch.float32)
        probabilities = logits.softmax(-1, dtype=wide)
        weights, experts = probabilities.topk(self.chosen, -1)
        if self.records:
            self.routed = probabilities, experts
        if self.normalizes:
            weights = weights / weights.sum(-1, keepdim=True)
        return self.experts(x, weights, experts)


class Router(nn.Module):
    """The weight [E, D] of a linear layer; it is not an nn.Linear, so adapters skip it."""

    def __init__(self, size: int, experts: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, size))

    def forward(self, x: Tensor) -> Tensor:
        """[T, D] -> [T, E]"""
        return linear(x, self.weight)


class Experts(nn.Module):
    """The weights of all experts: `gate_up_proj` [E, 2 F, D] (first gates), `down_proj` [E, D, F].

    Tokens are sorted by their experts, so that one grouped matrix product serves all experts. Sums
    are computed in a fixed order, so equal inputs give bit-identical outputs.
    """

    def __init__(self, config: ModelConfig, inner: int) -> None:
        super().__init__()
        size, count = config.hidden_size, config.num_experts
        self.gate_up_proj = GroupedLinear(count, size, 2 * inner)
        self.down_proj = GroupedLinear(count, inner, size)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
        """x [T, D], weights and experts [T, K] of each token -> [T, D]."""
        tokens, chosen = experts.shape
        by_expert, order = experts.flatten().sort(stable=True)
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order), device=order.device)
        every = torch.arange(len(self.down_proj.weight), device=order.device)
        ends = torch.searchsorted(by_expert, every, right=True).to(torch.int32)
        copies = x.unsqueeze(1).expand(-1, chosen, -1).reshape(tokens * chosen, -1)
        rows = _Permute.apply(copies, order, back)
        gate, up = self.gate_up_proj(rows, ends).chunk(2, -1)
        made = self.down_proj(self.activation(gate) * up, ends)
        made = _Permute.apply(made, back, order).view(tokens, chosen, -1)
        # under autocast, CUDA returns an fp32 sum
        return (made * weights.to(made.dtype).unsqueeze(-1)).sum(1).to(made.dtype)


class GroupedLinear(nn.Module):
    """A linear layer without bias for each expert; `weight` is [E, O, I]."""

    def __init__(self, count: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, outputs, inputs))

    def forward(self, rows: Tensor, ends: Tensor) -> Tensor:
        """rows [N, I], sorted by expert -> [N, O]; ends [E] holds the end of each expert's rows."""
        return grouped_product(rows, self.weight, ends)


def grouped_product(rows: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    """Multiply rows [N, I] by weights [E, O, I] -> [N, O]; ends [E]: the end of each expert's rows.

    On CUDA in bf16 one kernel computes all products and reads `ends` on the device. Otherwise each
    expert is a separate product, and the host waits for `ends`.
    """
    weights = weights.to(rows.dtype)
    if rows.device.type == "cuda" and _kernel_takes(rows, weights):
        return F.grouped_mm(rows, weights.mT, offs=ends)
    counts = ends.diff(prepend=ends.new_zeros(1)).tolist()
    parts = zip(rows.split(counts), weights.unbind(), strict=True)
    return torch.cat([part @ weight.T for part, weight in parts])


def _kernel_takes(rows: Tensor, weights: Tensor) -> bool:
    """Whether the kernel supports the arguments: bf16, and rows of a multiple of 16 bytes."""
    sizes = (size * rows.element_size() for size in weights.shape[1:])
    return rows.dtype == torch.bfloat16 and not any(size % 16 for size in sizes)


class _Permute(torch.autograd.Function):
    """x[order]; the backward pass indexes the gradient with the inverse order (no additions)."""

    @staticmethod
    def forward(ctx: AutogradContext, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return x[order]

    @staticmethod
    @once_differentiable
    def backward(ctx: AutogradContext, grad: Tensor) -> tuple[Tensor | None, ...]:
        (inverse,) = ctx.saved_tensors
        return grad[inverse], None, None
