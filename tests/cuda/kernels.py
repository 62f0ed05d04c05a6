"""Kernels that only a torch built for CUDA would choose: attention's, and the norm of decoders."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def attention_of(capability: tuple[int, int]) -> Callable[..., Tensor]:
    """F.scaled_dot_product_attention by the kernel that CUDA would choose (sdp_utils.cpp).

    The code with which torch makes this choice is only in builds with CUDA.
    """
    usual, aten = F.scaled_dot_product_attention, torch.ops.aten

    def attend(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        options = {"scale": scale, "enable_gqa": enable_gqa}
        if query.device.type == "cpu":
            return usual(query, key, value, attn_mask, dropout_p, is_causal, **options)
        ampere, channels = capability >= (8, 0), query.shape[3]
        halves = (torch.float16, torch.bfloat16) if ampere else (torch.float16,)
        alike = query.shape[1] == key.shape[1] == value.shape[1]
        aligned = channels % (4 if query.dtype == torch.float32 else 8) == 0
        known = query.dtype in (*halves, torch.float32)
        if query.device.type != "cuda" or not (known and alike and aligned):
            parts = query, key, value, attn_mask, dropout_p, is_causal
            return aten._scaled_dot_product_attention_math(*parts, **options)[0]
        if ampere and query.dtype in halves and attn_mask is None and channels <= 256:
            return aten._scaled_dot_product_flash_attention(
                query, key, value, dropout_p, is_causal, scale=scale
            )[0]
        bias = None if attn_mask is None else _bias(attn_mask, query, key)
        return aten._scaled_dot_product_efficient_attention(
            query, key, value, bias, query.requires_grad, dropout_p, is_causal, scale=scale
        )[0]

    return attend


def _bias(mask: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """The mask as torch passes it to the memory-efficient kernel, with rows of a multiple of 8."""
    bias = mask
    if mask.dtype == torch.bool:
        bias = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, -torch.inf)
    width = bias.shape[-1]
    bias = F.pad(bias, (0, -width % 8))[..., :width]
    return bias.expand(*query.shape[:3], key.shape[2])


USUAL_RMS_NORM = F.rms_norm


def normalized(
    x: Tensor, shape: list[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """F.rms_norm as one kernel (two backward), as on CUDA; elsewhere torch decomposes it."""
    if x.device.type != "cuda" or weight is None or weight.dtype != x.dtype:
        return USUAL_RMS_NORM(x, shape, weight, eps)
    if torch.is_autocast_enabled("cuda"):  # autocast runs it in fp32
        x, weight = x.float(), weight.float()
    return _fused_rms_norm(x, weight)[0]


@torch.library.custom_op("pretended::fused_rms_norm", mutates_args=())
def _fused_rms_norm(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    raise AssertionError("this operator is only for fake tensors")


@_fused_rms_norm.register_fake
def _(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(*x.shape[:-1], 1, dtype=torch.float32)


@torch.library.custom_op("pretended::fused_rms_norm_backward", mutates_args=())
def _fused_rms_norm_backward(
    grad: Tensor, x: Tensor, scale: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    raise AssertionError("this operator is only for fake tensors")


@_fused_rms_norm_backward.register_fake
def _(grad: Tensor, x: Tensor, scale: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(weight)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[0], output[1], inputs[1])


def _differentiate(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
    return _fused_rms_norm_backward(grad, *ctx.saved_tensors)


_fused_rms_norm.register_autograd(_differentiate, setup_context=_save)
