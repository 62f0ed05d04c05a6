"""Causal attention of decoders, where several query heads may share a key head, on each device.

T tokens, B sequences, the longest of L; H query heads over K key heads of C channels.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from trainer.models.cache import KeyValueCache
from trainer.models.causal_attention import causal_attention
from trainer.models.dropout import Dropout, head_keys
from trainer.models.flash_attention import fits_flash_kernel, flash_attention
from trainer.models.fused_attention import fits_varlen_kernel, grid_attention, varlen_attention
from trainer.models.grids import attend_by_length, is_split_by_length
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
    window_over_gaps: bool,
) -> Path:
    """How to compute causal attention. Only the plain path gives the probabilities.

    Dropout is in the plain path and in our Triton kernel (flash).

    A window counts the caller's columns, so that pads between the tokens of a sequence take part
    in it: the plain path and SDPA's mask know them. On a CPU the blocks were 1.5 to 3
    times as fast as SDPA.
    """
    if dropping and fits_flash and not weights_wanted and not window_over_gaps:
        return "flash"
    if dropping or weights_wanted:
        return "plain"
    if window_over_gaps:
        return "plain" if device_type == "cpu" else "sdpa"
    if device_type == "cuda":
        half = dtype in (torch.float16, torch.bfloat16)
        return "varlen" if half and fits_varlen else "sdpa"
    return "blocks" if device_type == "cpu" else "sdpa"


class GroupedAttention(nn.Module):
    """Every token attends to itself and to those before it in its sequence (Ainslie et al., 2023).

    With `window` only to the so many before it. Whoever inherits makes queries, keys and values.
    """

    def __init__(
        self, num_heads: int, num_key_heads: int, channels: int, dropout: float, window: int | None
    ) -> None:
        super().__init__()
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
        keys: Tensor | None,
        weights_wanted: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """query [T, H x C], key and value [T, K x C], a cache and the number of this layer in it.

        Returns ([T, H x C], probabilities [B, H, L, L] if wanted).
        """
        query = query.unflatten(1, (self.num_heads, self.channels))
        key, value = (x.unflatten(1, (self.num_key_heads, self.channels)) for x in (key, value))
        if past is not None:
            cache, layer = past
            grids = cache.append(layer, key, value, layout)
            if not cache.is_empty:
                return self._cached(query, *grids, layout, cache).flatten(1), None
        path = choose_path(
            query.device.type,
            query.dtype,
            fits_varlen=fits_varlen_kernel(query.device, self.channels),
            fits_flash=self.dropout.active
            and fits_flash_kernel(query.device, query.dtype, self.channels),
            dropping=self.dropout.active,
            weights_wanted=weights_wanted,
            window_over_gaps=self.window is not None and layout.has_gaps,
        )
        if path == "plain":
            if weights_wanted or not is_split_by_length(layout, self.num_heads):
                context, weights = self._plain(query, key, value, keys, layout)
                return context.flatten(1), weights if weights_wanted else None
            context = attend_by_length(
                lambda *inputs: self._plain(*inputs)[0], query, key, value, keys, layout
            )
            return context.flatten(1), None
        if path == "blocks":
            scale = self.channels**-0.5
            context = causal_attention(query, key, value, layout, scale, self.window)
        elif path == "varlen":
            context = self._varlen(query, key, value, layout)
        elif path == "flash":
            sides = self.window, 0
            context = flash_attention(
                query, key, value, layout, dropout=self.dropout, keys=keys, sides=sides
            )
        else:
            context = self._sdpa(query, key, value, layout)
        return context.flatten(1), None

    def _plain(
        self, query: Tensor, key: Tensor, value: Tensor, keys: Tensor | None, layout: Layout
    ) -> tuple[Tensor, Tensor]:
        shared = self.num_heads // self.num_key_heads
        key, value = (x.repeat_interleave(shared, 1) for x in (key, value))
        q, k, v = (layout.to_grid(x).transpose(1, 2) for x in (query, key, value))
        scores = (q * self.channels**-0.5) @ k.transpose(-1, -2)  # [B, H, L, L]
        scores = scores.masked_fill(~layout.causal_pairs(self.window), -torch.inf)
        weights = scores.softmax(-1).to(v.dtype)
        grid = None if keys is None else head_keys(layout.to_grid(keys), self.num_heads)
        weights = self.dropout(weights, grid)
        return layout.from_grid((weights @ v).transpose(1, 2)), weights

    def _sdpa(self, query: Tensor, key: Tensor, value: Tensor, layout: Layout) -> Tensor:
        """A grid's pads come last, so that no token sees one."""
        q, k, v = (layout.to_grid(x).transpose(1, 2) for x in (query, key, value))
        bounded = self.window is not None and self.window < (layout.width or layout.longest) - 1
        mask = layout.causal_pairs(self.window) if bounded else None
        context = grid_attention(q, k, v, mask, causal=mask is None)
        return layout.from_grid(context.transpose(1, 2))

    def _varlen(self, query: Tensor, key: Tensor, value: Tensor, layout: Layout) -> Tensor:
        sides = (-1 if self.window is None else self.window, 0)
        return varlen_attention(query, key, value, layout, sides)

    def _cached(
        self, query: Tensor, key: Tensor, value: Tensor, layout: Layout, cache: KeyValueCache
    ) -> Tensor:
        """query [T, H, C] of new tokens, key and value [B, K, n, C] of all -> [T, H, C]."""
        seen = cache.visible(layout, key.shape[2], self.window).unsqueeze(1)
        key, value = key.to(query.dtype), value.to(query.dtype)
        if layout.longest == 1:  # the heads that share a key head see alike: rows of one product
            grouped = query.unflatten(1, (self.num_key_heads, -1))
            return grid_attention(grouped, key, value, seen).flatten(1, 2)
        context = grid_attention(layout.to_grid(query).transpose(1, 2), key, value, seen)
        return layout.from_grid(context.transpose(1, 2))
