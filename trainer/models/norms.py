"""LayerNorm and RMSNorm that return the type of their input, under autocast as well."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from trainer.models.fused_norm import norm
from trainer.models.leaves import runs_compiled


class LayerNorm(nn.LayerNorm):
    """torch's, in the type of its input on every device.

    Outside of a CPU, autocast would run it in fp32 and return fp32, and all that follows would
    leave half precision. The kernels compute in fp32 inside.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu":
            return super().forward(x)
        if runs_compiled(x, reduces=True):
            return norm(x, self)
        weight, bias = (p if p is None else p.to(x.dtype) for p in (self.weight, self.bias))
        with torch.autocast(x.device.type, enabled=False):
            return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


class RMSNorm(nn.RMSNorm):
    """x over the root of its mean square, times a weight (Zhang and Sennrich, 2019)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__(size, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        if runs_compiled(x, reduces=True):
            return norm(x, self)
        if x.device.type != "cuda":
            return _RMSNorm.apply(x, self.weight, self.eps)
        with torch.autocast("cuda", enabled=False):  # it would return fp32
            return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class _RMSNorm(torch.autograd.Function):
    """Elsewhere than on CUDA torch has no kernel: autograd would keep x three times, in fp32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        scale = wide.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (wide * scale).mul_(weight).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        normed, grad = x.to(scale.dtype) * scale, grad.to(scale.dtype)
        grad_weight = (grad * normed).flatten(0, -2).sum(0).to(weight.dtype)
        grad = grad * weight
        along = (grad * normed).mean(-1, keepdim=True)
        return grad.sub_(normed.mul_(along)).mul_(scale).to(x.dtype), grad_weight, None
