"""Causal attention of decoders, where several query heads may share a key head.

Dimensions: T tokens in B sequences, the longest of L tokens; H query heads, K key heads of C
channels.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from trainer.models.attention.block_attention import block_attention
from trainer.models.attention.causal_attention import causal_attention
from trainer.models.attention.flash_attention import fits_flash_kernel, flash_attention
from trainer.models.attention.fused_attention import (
    fits_varlen_kernel,
    grid_attention,
    varlen_attention,
)
from trainer.models.attention.grids import is_split_in_blocks
from trainer.models.attention.pairs import Pairs
from trainer.models.attention.shared_attention import shared_attention
from trainer.models.blocks.dropout import Dropout
from trainer.models.blocks.dropout_hash import head_keys
from trainer.models.blocks.softcap import capped
from trainer.models.cache import KeyValueCache
from trainer.models.context_share import PartLayout
from trainer.models.packing import Layout

Path = Literal["plain", "blocks", "sdpa", "varlen", "flash"]


def choose_path(
    device_type: str,
    dtype: torch.dtype,
    *,
    fits_varlen: bool,
    fits_flash: bool,
    dropping: bool,
    weights_wanted: bool,
    own_mask: bool,
    caps: bool = False,
) -> Path:
    """Choose the implementation of causal attention.

    Only "plain" returns the probabilities. "plain" and our Triton kernel ("flash") support dropout.
    These two and "blocks" support soft-capped scores (`caps`); torch's kernels do not. "plain" and
    "blocks" run on any device. `own_mask` is true if a mask of (query, key) pairs is needed:
    the caller passed one, or there are a window and pads between tokens, which count toward its
    width. Only "plain" and "sdpa" accept such a mask. On a CPU, "blocks" is 1.5 to 3 times as fast
    as "sdpa".
    """
    own_kernel = fits_flash and not weights_wanted and not own_mask
    if own_kernel and (dropping or (caps and device_type == "cuda")):
        return "flash"
    if dropping or weights_wanted:
        return "plain"
    if caps:
        return "plain" if own_mask else "blocks"
    if device_type == "cuda" and dtype == torch.float64:  # torch has no kernel for it
        return "plain"
    if own_mask:
        return "plain" if device_type == "cpu" else "sdpa"
    if device_type == "cuda":
        half = dtype in (torch.float16, torch.bfloat16)
        return "varlen" if half and fits_varlen else "sdpa"
    return "blocks" if device_type == "cpu" else "sdpa"


class GroupedAttention(nn.Module):
    """Causal attention whose query heads share key heads (Ainslie et al., 2023).

    With `window`, a token sees only itself and that many tokens before it. Subclasses compute
    queries, keys and values.
    """

    def __init__(
        self, num_heads: int, num_key_heads: int, channels: int, dropout: float, window: int | None
    ) -> None:
        super().__init__()
        self.scale = channels**-0.5
        """The factor by which the products of queries and keys are multiplied"""
        self.softcap: float | None = None
        """The soft cap c: scores s become c tanh(s / c) (Gemma 2, 2024, section 2)"""
        self.num_heads = num_heads
        self.num_key_heads = num_key_heads
        self.channels = channels
        self.window = window
        self.dropout = Dropout(dropout)

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        layout: Layout,
        past: tuple[KeyValueCache, int] | None,
        dropout_keys: Tensor | None,
        weights_wanted: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """query [T, H x C], key and value [T, K x C]; `past`: (cache, this layer's index in it).

        Returns ([T, H x C], probabilities [B, H, L, L] if wanted).
        """
        query = query.unflatten(1, (self.num_heads, self.channels))
        key, value = (x.unflatten(1, (self.num_key_heads, self.channels)) for x in (key, value))
        if isinstance(layout, PartLayout):
            return self._shared(query, key, value, layout, dropout_keys).flatten(1), None
        if past is not None:
            cache, layer = past
            grids = cache.append(layer, key, value, layout)
            if not cache.is_empty:
                return self._cached(query, *grids, layout, cache).flatten(1), None
        attended = self._by_path(query, key, value, layout, dropout_keys, weights_wanted)
        return attended[0].flatten(1), attended[1]

    def _by_path(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        layout: Layout,
        dropout_keys: Tensor | None,
        weights_wanted: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """`attend` without a cache: query [T, H, C], key and value [T, K, C] -> [T, H, C]."""
        match self._path(query, layout, weights_wanted):
            case "plain":
                return self._plain(query, key, value, dropout_keys, layout, weights_wanted)
            case "blocks":
                return causal_attention(
                    query, key, value, layout, self.scale, self.window, self.softcap
                ), None
            case "varlen":
                sides = (-1 if self.window is None else self.window, 0)
                return varlen_attention(query, key, value, layout, sides, scale=self.scale), None
            case "flash":
                context = flash_attention(
                    query,
                    key,
                    value,
                    layout,
                    dropout=self.dropout,
                    keys=dropout_keys,
                    sides=(self.window, 0),
                    scale=self.scale,
                    softcap=self.softcap,
                )
                return context, None
        return self._sdpa(query, key, value, layout), None

    def _shared(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        part: PartLayout,
        dropout_keys: Tensor | None,
    ) -> Tensor:
        """`attend` from this rank's tokens to the keys of all ranks."""
        return shared_attention(
            query,
            key,
            value,
            part,
            scale=self.scale,
            window=self.window,
            softcap=self.softcap,
            dropout=self.dropout,
            dropout_keys=dropout_keys,
        )

    def _path(self, query: Tensor, layout: Layout, weights_wanted: bool) -> Path:
        if layout.masks_heads:
            return "plain"
        device, dtype, caps = query.device, query.dtype, self.softcap is not None
        return choose_path(
            device.type,
            dtype,
            fits_varlen=fits_varlen_kernel(device, self.channels),
            fits_flash=(self.dropout.active or caps)
            and fits_flash_kernel(device, dtype, self.channels, caps),
            dropping=self.dropout.active,
            weights_wanted=weights_wanted,
            own_mask=layout.needs_mask or (self.window is not None and layout.has_gaps),
            caps=caps,
        )

    def _plain(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        dropout_keys: Tensor | None,
        layout: Layout,
        weights_wanted: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Compute all scores [B, H, L, L] at once, or in blocks if blocks save much memory."""
        supported = layout.visible is None and not weights_wanted  # only encoders set `visible`
        if supported and is_split_in_blocks(layout, self.num_heads):
            return self._blocks(query, key, value, dropout_keys, layout), None
        return self._products(query, key, value, dropout_keys, layout, weights_wanted)

    def _blocks(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        dropout_keys: Tensor | None,
        layout: Layout,
    ) -> Tensor:
        """Compute `_products` in blocks of queries; no scores are kept for the backward pass."""
        shared = self.num_heads // self.num_key_heads
        key, value = (x.repeat_interleave(shared, 1) for x in (key, value))
        return block_attention(
            query,
            key,
            value,
            Pairs(layout, layout, causal=True, window=self.window),
            scale=self.scale,
            softcap=self.softcap,
            dropout=self.dropout,
            dropout_keys=dropout_keys,
        )

    def _products(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        dropout_keys: Tensor | None,
        layout: Layout,
        weights_wanted: bool,
    ) -> tuple[Tensor, Tensor | None]:
        shared = self.num_heads // self.num_key_heads
        key, value = (x.repeat_interleave(shared, 1) for x in (key, value))
        q, k, v = (layout.to_grid(x).transpose(1, 2) for x in (query, key, value))
        scores = self._capped((q * self.scale) @ k.transpose(-1, -2))  # [B, H, L, L]
        mask = layout.causal_pairs(self.window)
        if mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, -torch.inf)
        else:
            scores = scores + mask.to(scores.dtype)
        weights = scores.softmax(-1).to(v.dtype)
        grid = (
            None
            if dropout_keys is None
            else head_keys(layout.to_grid(dropout_keys), self.num_heads)
        )
        weights, shown = self.dropout(weights, grid), None
        if weights_wanted:
            shown, weights = layout.attentions_through_caller(weights)
        return layout.from_grid((weights @ v).transpose(1, 2)), shown

    def _sdpa(self, query: Tensor, key: Tensor, value: Tensor, layout: Layout) -> Tensor:
        """Run SDPA over a grid. Pads are at the ends of rows, so causal attention ignores them."""
        q, k, v = (layout.to_grid(x).transpose(1, 2) for x in (query, key, value))
        narrow = self.window is not None and self.window < (layout.width or layout.longest) - 1
        bounded = narrow or layout.needs_mask
        mask = layout.causal_pairs(self.window) if bounded else None
        context = grid_attention(q, k, v, mask, causal=mask is None, scale=self.scale)
        return layout.from_grid(context.transpose(1, 2))

    def _cached(
        self, query: Tensor, key: Tensor, value: Tensor, layout: Layout, cache: KeyValueCache
    ) -> Tensor:
        """query [T, H, C] of new tokens, key and value [B, K, n, C] of all tokens -> [T, H, C]."""
        seen = cache.visible(layout, key.shape[2], self.window).unsqueeze(1)
        key, value = key.to(query.dtype), value.to(query.dtype)
        if layout.longest == 1:  # the heads that share a key head are the rows of one product
            grouped = query.unflatten(1, (self.num_key_heads, -1))
            return self._of_grid(grouped, key, value, seen).flatten(1, 2)
        context = self._of_grid(layout.to_grid(query).transpose(1, 2), key, value, seen)
        return layout.from_grid(context.transpose(1, 2))

    def _of_grid(self, query: Tensor, key: Tensor, value: Tensor, seen: Tensor) -> Tensor:
        """query [B, H, L, C], key and value [B, K, n, C], seen [B, 1, L, n] -> [B, H, L, C]."""
        if self.softcap is None:
            return grid_attention(query, key, value, seen, scale=self.scale)
        shared = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(shared, 1) for x in (key, value))
        scores = self._capped((query * self.scale) @ key.transpose(-1, -2))
        return scores.masked_fill(~seen, -torch.inf).softmax(-1).to(value.dtype) @ value

    def _capped(self, scores: Tensor) -> Tensor:
        return capped(scores, self.softcap)
