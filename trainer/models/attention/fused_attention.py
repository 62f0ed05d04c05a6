"""Attention with torch's fused kernels, over flat sequences or grids.

Dimensions: T tokens in B sequences, of which the longest has L tokens; H query heads, K key heads
of C channels.
"""

import inspect
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.models.packing import Layout


def fits_varlen_kernel(device: torch.device, channels: int) -> bool:
    """Whether the varlen kernel runs on this device with this many channels per head."""
    if device.type != "cuda" or channels % 8 or channels > 256:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def varlen_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    sides: tuple[int, int],
    *,
    keys_layout: Layout | None = None,
    scale: float | None = None,
) -> Tensor:
    """query [Tq, H, C], key and value [Tk, K, C] -> [Tq, H, C], within each sequence.

    `sides` are the numbers of tokens that a token sees before and after itself; -1: all.
    `keys_layout` is the layout of the keys if these are not the tokens of the queries; `sides` then
    count from the ends: a sequence's last query is aligned with its last key. Scores are multiplied
    by `scale`, by default C^-1/2.
    """
    from torch.nn.attention.varlen import varlen_attn

    keys = layout if keys_layout is None else keys_layout
    options = _grouping() if query.shape[1] != key.shape[1] else {}
    context = varlen_attn(
        query,
        key,
        value,
        layout.cumulative_lengths,
        keys.cumulative_lengths,
        layout.longest,
        keys.longest,
        scale=scale,
        window_size=sides,
        **options,
    )
    assert isinstance(context, Tensor)
    return context


def grid_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """query [B, H, L, C], key and value [B, K, S, C] -> [B, H, L, C].

    `mask`, broadcast to [B, H, L, S], is True where a query sees a key, or is a float added to
    the scores. Scores are multiplied by `scale`, by default C^-1/2. On CUDA, all dtypes except
    float64 use a kernel that does not store the scores [L, S]. For this kernel, channels are
    padded to a multiple of 8, and bfloat16 is cast to fp32 on GPUs older than Ampere.
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
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(parts[0].dtype)
    scale = channels**-0.5 if scale is None else scale
    context = F.scaled_dot_product_attention(*parts, mask, is_causal=causal, scale=scale)
    return context[..., :channels].to(dtype)


@lru_cache(maxsize=1)
def _grouping() -> dict[str, Any]:
    """The arguments of `varlen_attn` for shared key heads; torch before 2.11 has none."""
    from torch.nn.attention.varlen import varlen_attn

    return {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}
