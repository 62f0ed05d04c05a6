"""Attention by torch's fused kernels: over flat sequences, or over grids of any device.

T tokens, B sequences, the longest of L; H query heads over K key heads of C channels.
"""

import inspect
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.models.packing import Layout


def fits_varlen_kernel(device: torch.device, channels: int) -> bool:
    """Whether the varlen kernel runs on this device with so many channels a head."""
    if device.type != "cuda" or channels % 8 or channels > 256:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def varlen_attention(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, sides: tuple[int, int]
) -> Tensor:
    """query [T, H, C], key and value [T, K, C] -> [T, H, C], each token in its own sequence.

    `sides`: how many tokens before and after it a token sees; -1: all of them.
    """
    from torch.nn.attention.varlen import varlen_attn

    ends, longest = layout.cumulative_lengths, layout.longest
    grouped = _grouping() if query.shape[1] != key.shape[1] else {}
    context = varlen_attn(
        query, key, value, ends, ends, longest, longest, window_size=sides, **grouped
    )
    assert isinstance(context, Tensor)
    return context


def grid_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, causal: bool = False
) -> Tensor:
    """query [B, H, L, C], key and value [B, K, S, C] -> [B, H, L, C], scaled by C^-1/2.

    `mask`, broadcast to [B, H, L, S], is True where a query sees a key. On CUDA every type but
    float64 is computed by a kernel that keeps no [L, S] scores: it needs as many key heads as
    query heads, channels in multiples of 8, and no bfloat16 on a GPU before Ampere.
    """
    shared, channels, dtype = query.shape[1] // key.shape[1], query.shape[3], query.dtype
    if shared > 1:
        key, value = (x.repeat_interleave(shared, 1) for x in (key, value))
    parts = query, key, value
    if query.device.type == "cuda":
        wide = dtype == torch.bfloat16 and torch.cuda.get_device_capability(query.device) < (8, 0)
        parts = tuple(x.float() if wide else x for x in parts)  # type: ignore[assignment]
        if channels % 8:
            parts = tuple(F.pad(x, (0, -channels % 8)) for x in parts)  # type: ignore[assignment]
    context = F.scaled_dot_product_attention(*parts, mask, is_causal=causal, scale=channels**-0.5)
    return context[..., :channels].to(dtype)


@lru_cache(maxsize=1)
def _grouping() -> dict[str, Any]:
    """What tells `varlen_attn` that query heads share key heads: until torch 2.11, nothing."""
    from torch.nn.attention.varlen import varlen_attn

    return {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}
