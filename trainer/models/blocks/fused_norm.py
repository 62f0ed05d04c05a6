"""A residual addition and the following norm, computed with few kernels.

Dimensions: T tokens, C channels.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from trainer.models.blocks.autograd import AutogradContext
from trainer.models.blocks.dropout import Dropout
from trainer.models.blocks.fused_dropout import Draws, keep
from trainer.models.blocks.leaves import Leaf, runs_compiled

Norm = nn.LayerNorm | nn.RMSNorm


def norm(x: Tensor, layer: Norm) -> Tensor:
    """Return layer(x) in the dtype of x. Call it only if `runs_compiled` is true."""
    return _norm(x, None, layer, None)[1]


def add_and_norm(
    residual: Tensor,
    x: Tensor,
    layer: Norm,
    dropout: Dropout | None = None,
    keys: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return residual + dropout(x), and the norm of this sum; all tensors are [T, C]."""
    drops = dropout is not None and dropout.active
    if not runs_compiled(x, reduces=True) or (drops and keys is None):
        total = residual + x if dropout is None else dropout.add(residual, x, keys)
        return total, layer(total)
    draws = None
    if dropout is not None and dropout.active and keys is not None:
        draws = dropout.draws_for(keys, x.shape[-1])
    return _norm(x, residual, layer, draws)


def _norm(
    x: Tensor, residual: Tensor | None, layer: Norm, draws: Draws | None
) -> tuple[Tensor, Tensor]:
    weight, bias = getattr(layer, "gain", layer.weight), getattr(layer, "bias", None)
    eps = torch.finfo(x.dtype).eps if layer.eps is None else layer.eps
    centred = isinstance(layer, nn.LayerNorm)
    return _AddAndNorm.apply(x, residual, weight, bias, eps, centred, *(draws or (None,) * 5))


def _added_norm(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    centred: bool,
    *draws: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return sum and norm [..., C], and the mean (0 unless `centred`) and scale, fp32 [...]."""
    total = x.float() if draws[0] is None else keep(x, Draws(*draws))
    if residual is not None:
        total = total + residual.float()
    total = total.to(x.dtype)
    wide = total.float()
    mean = wide.mean(-1) if centred else torch.zeros_like(wide[..., 0])
    wide = wide - mean.unsqueeze(-1)
    scale = (wide.square().mean(-1) + eps).rsqrt()
    normed = wide * scale.unsqueeze(-1) * weight.float()
    if bias is not None:
        normed = normed + bias.float()
    return total, normed.to(x.dtype), mean, scale


def _added_norm_gradients(
    grad: Tensor,
    grad_total: Tensor | None,
    total: Tensor,
    mean: Tensor,
    scale: Tensor,
    weight: Tensor,
    centred: bool,
    *draws: Tensor,
) -> tuple[Tensor, Tensor | None]:
    """The gradients of the residual, and of x if dropout makes it differ (else None)."""
    normed = (total.float() - mean.unsqueeze(-1)) * scale.unsqueeze(-1)
    wide = grad.float() * weight.float()
    along = (wide * normed).mean(-1, keepdim=True)
    wide_grad = wide - normed * along
    if centred:
        wide_grad = wide_grad - wide.mean(-1, keepdim=True)
    wide_grad = wide_grad * scale.unsqueeze(-1)
    if grad_total is not None:
        wide_grad = wide_grad + grad_total.float()
    if draws[0] is None:
        return wide_grad.to(total.dtype), None
    return wide_grad.to(total.dtype), keep(wide_grad, Draws(*draws)).to(total.dtype)


def _norm_weight_gradients(
    grad: Tensor, total: Tensor, mean: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of weight and bias, fp32 [C]."""
    normed = (total.float() - mean.unsqueeze(-1)) * scale.unsqueeze(-1)
    wide = grad.float()
    return (wide * normed).flatten(0, -2).sum(0), wide.flatten(0, -2).sum(0)


FORWARD = Leaf(_added_norm, reduces=True)
BACKWARD = Leaf(_added_norm_gradients, reduces=True)
BACKWARD_OF_WEIGHTS = Leaf(_norm_weight_gradients, reduces=True)


class _AddAndNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: AutogradContext,
        x: Tensor,
        residual: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        eps: float,
        centred: bool,
        *draws: Tensor,
    ) -> tuple[Tensor, Tensor]:
        total, normed, mean, scale = FORWARD(x, residual, weight, bias, eps, centred, *draws)
        ctx.save_for_backward(total, mean, scale, weight, *draws)
        ctx.centred = centred
        ctx.set_materialize_grads(False)
        return total, normed

    @staticmethod
    @once_differentiable
    def backward(
        ctx: AutogradContext, grad_total: Tensor | None, grad: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        total, mean, scale, weight, *draws = ctx.saved_tensors
        x_wanted, residual_wanted, weight_wanted, bias_wanted = ctx.needs_input_grad[:4]
        if grad is None:
            grad = torch.zeros_like(total)
        grad_sum, grad_x = BACKWARD(
            grad, grad_total, total, mean, scale, weight, ctx.centred, *draws
        )
        grad_weight = grad_bias = None
        if weight_wanted or bias_wanted:
            grad_weight, grad_bias = BACKWARD_OF_WEIGHTS(grad, total, mean, scale)
            grad_weight, grad_bias = grad_weight.to(weight.dtype), grad_bias.to(weight.dtype)
        return (
            (grad_sum if grad_x is None else grad_x) if x_wanted else None,
            grad_sum if residual_wanted else None,
            grad_weight if weight_wanted else None,
            grad_bias if bias_wanted else None,
            *(None,) * 7,
        )
