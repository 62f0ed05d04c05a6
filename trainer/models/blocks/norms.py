"""LayerNorm and RMSNorm that keep the dtype of their input, even under autocast."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from trainer.models.blocks.autograd import AutogradContext
from trainer.models.blocks.fused_norm import norm
from trainer.models.blocks.leaves import runs_compiled


class LayerNorm(nn.LayerNorm):
    """torch's LayerNorm, but in the dtype of its input on every device.

    Under autocast, torch's LayerNorm returns fp32 on devices other than CPUs, so later layers would
    not run in half precision. The kernels compute in fp32 internally.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu":
            return super().forward(x)
        if runs_compiled(x, reduces=True):
            return norm(x, self)
        weight, bias = (p if p is None else p.to(x.dtype) for p in (self.weight, self.bias))
        with torch.autocast(x.device.type, enabled=False):
            return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


class UnbiasedLayerNorm(LayerNorm):
    """LayerNorm without bias, as in Cohere's models; it takes the same arguments as RMSNorm."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__(size, eps=eps, bias=False)


class RMSNorm(nn.RMSNorm):
    """x divided by its root mean square, times a weight (Zhang and Sennrich, 2019)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__(size, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        if runs_compiled(x, reduces=True):
            return norm(x, self)
        if x.device.type != "cuda":
            return _RMSNorm.apply(x, self.weight, self.eps)
        with torch.autocast("cuda", enabled=False):  # autocast would return fp32
            return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class OffsetRMSNorm(RMSNorm):
    """Gemma's RMSNorm: multiplies by one plus a weight, which starts at 0 (Gemma, 2024)."""

    @property
    def gain(self) -> Tensor:
        """The factor of the normalized inputs, in at least fp32."""
        return 1.0 + self.weight.to(torch.promote_types(self.weight.dtype, torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        if runs_compiled(x, reduces=True):
            return norm(x, self)
        return _RMSNorm.apply(x, self.gain, self.eps)


class _RMSNorm(torch.autograd.Function):
    """RMSNorm for devices where torch has no kernel; autograd would save x three times in fp32."""

    @staticmethod
    def forward(ctx: AutogradContext, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        scale = wide.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (wide * scale).mul_(weight).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: AutogradContext, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        normed, grad = x.to(scale.dtype) * scale, grad.to(scale.dtype)
        grad_weight = (grad * normed).flatten(0, -2).sum(0).to(weight.dtype)
        grad = grad * weight
        along = (grad * normed).mean(-1, keepdim=True)
        return grad.sub_(normed.mul_(along)).mul_(scale).to(x.dtype), grad_weight, None
