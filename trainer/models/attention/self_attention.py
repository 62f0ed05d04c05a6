"""Bidirectional attention over flat sequences: plain products, SDPA, varlen or Triton kernels.

Dimensions: T tokens in B sequences, the longest of L tokens; H heads of C channels, D = H x C.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from trainer.models.attention.block_attention import block_attention
from trainer.models.attention.flash_attention import fits_flash_kernel, flash_attention
from trainer.models.attention.fused_attention import (
    fits_varlen_kernel,
    grid_attention,
    varlen_attention,
)
from trainer.models.attention.grids import is_split_in_blocks
from trainer.models.attention.pairs import Pairs
from trainer.models.blocks.dropout import Dropout
from trainer.models.blocks.dropout_hash import head_keys
from trainer.models.blocks.linear import Linear, joined_linear
from trainer.models.packing import Layout

Path = Literal["plain", "sdpa", "varlen", "flash"]

LONG_ON_CPU = 512
"""If the longest sequence has at least this many tokens, CPUs use SDPA, which does not store the
probabilities [L, L]."""


def choose_path(
    device_type: str,
    dtype: torch.dtype,
    longest: int,
    *,
    fits_varlen: bool,
    fits_flash: bool,
    dropping: bool,
    weights_wanted: bool,
    hidden_keys: bool,
) -> Path:
    """Choose the implementation of attention.

    Only "plain" returns the probabilities. Only "plain" and our Triton kernel ("flash") support
    dropout. "flash" and torch's kernel ("varlen") need a batch without masked keys, and "varlen"
    needs half precision. On a CPU, plain products train faster than SDPA on short sequences.
    """
    if dropping and fits_flash and not weights_wanted and not hidden_keys:
        return "flash"
    if dropping or weights_wanted:
        return "plain"
    if torch.compiler.is_exporting():  # one graph for all lengths
        return "sdpa"
    if device_type == "cuda":
        if dtype == torch.float64:  # no kernel
            return "plain"
        half = dtype in (torch.float16, torch.bfloat16)
        return "varlen" if half and fits_varlen and not hidden_keys else "sdpa"
    return "sdpa" if longest >= LONG_ON_CPU else "plain"


class AttentionCore(nn.Module):
    """Multi-head attention over queries, keys and values, which subclasses compute."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.channels = hidden_size // num_heads
        self.dropout = Dropout(dropout)

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        layout: Layout,
        dropout_keys: Tensor | None,
        weights_wanted: bool,
        window: int | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """query, key, value [T, D], dropout keys [T] -> ([T, D], probabilities if wanted).

        With `window`, a token sees only tokens that are at most that many columns away.
        """
        path = choose_path(
            query.device.type,
            query.dtype,
            layout.longest,
            fits_varlen=fits_varlen_kernel(query.device, self.channels),
            fits_flash=self.dropout.active
            and fits_flash_kernel(query.device, query.dtype, self.channels),
            dropping=self.dropout.active,
            weights_wanted=weights_wanted or layout.masks_heads,
            hidden_keys=layout.needs_mask
            or layout.visible is not None
            or (window is not None and layout.has_gaps),
        )
        if path == "varlen":
            return self._varlen(query, key, value, layout, window), None
        if path == "flash":
            return self._flash(query, key, value, layout, dropout_keys, window), None
        if path == "sdpa":
            query, key, value = (self._heads(part, layout) for part in (query, key, value))
            context = grid_attention(query, key, value, layout.visible_pairs(window))
            return layout.from_grid(context.transpose(1, 2).flatten(2)), None
        if not weights_wanted and is_split_in_blocks(layout, self.num_heads):
            return self._blocks(query, key, value, dropout_keys, layout, window), None
        return self._plain(query, key, value, dropout_keys, layout, window, weights_wanted)

    def _heads(self, x: Tensor, layout: Layout) -> Tensor:
        """[T, D] -> [B, heads, L, channels]."""
        return layout.to_grid(x).unflatten(2, (self.num_heads, self.channels)).transpose(1, 2)

    def _plain(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        dropout_keys: Tensor | None,
        layout: Layout,
        window: int | None,
        weights_wanted: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Compute `attend` with all scores in one grid."""
        query, key, value = (self._heads(part, layout) for part in (query, key, value))
        mask = layout.visible_pairs(window)
        grid = (
            None
            if dropout_keys is None
            else head_keys(layout.to_grid(dropout_keys), self.num_heads)
        )
        context, weights = self._products(query, key, value, mask, grid, layout, weights_wanted)
        return layout.from_grid(context.transpose(1, 2).flatten(2)), weights

    def _products(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        dropout_keys: Tensor | None,
        layout: Layout,
        weights_wanted: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """query, key, value [B, H, L, C], dropout keys [B, H, L] -> ([B, H, L, C], weights)."""
        scores = (query * self.channels**-0.5) @ key.transpose(-1, -2)  # [B, heads, L, L]
        if mask is not None and mask.dtype != torch.bool:
            scores += mask
        elif mask is not None:
            scores += torch.zeros_like(mask, dtype=scores.dtype).masked_fill_(~mask, -torch.inf)
        weights = scores.softmax(-1).to(value.dtype)
        if not self.dropout.active or dropout_keys is None or weights_wanted:
            weights = self.dropout(weights, dropout_keys)
            if not weights_wanted:
                return weights @ value, None
            shown, weights = layout.attentions_through_caller(weights)
            return weights @ value, shown
        # Scaling the context instead of the probabilities saves passes over [L, L].
        kept = weights * self.dropout.mask(weights, dropout_keys)
        return (kept @ value) * self.dropout.scale, None

    def _blocks(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        dropout_keys: Tensor | None,
        layout: Layout,
        window: int | None,
    ) -> Tensor:
        """Compute `attend` in blocks of queries; no scores are kept for the backward pass."""
        shape = (self.num_heads, self.channels)
        query, key, value = (part.unflatten(1, shape) for part in (query, key, value))
        return block_attention(
            query,
            key,
            value,
            Pairs(layout, layout, window=window),
            scale=self.channels**-0.5,
            dropout=self.dropout,
            dropout_keys=dropout_keys,
        ).flatten(1)

    def _varlen(
        self, query: Tensor, key: Tensor, value: Tensor, layout: Layout, window: int | None
    ) -> Tensor:
        shape = (self.num_heads, self.channels)
        query, key, value = (part.unflatten(1, shape) for part in (query, key, value))
        sides = (-1, -1) if window is None else (window, window)
        return varlen_attention(query, key, value, layout, sides).flatten(1)

    def _flash(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        layout: Layout,
        dropout_keys: Tensor | None,
        window: int | None,
    ) -> Tensor:
        shape = (self.num_heads, self.channels)
        query, key, value = (part.unflatten(1, shape) for part in (query, key, value))
        sides = window, window
        context = flash_attention(
            query, key, value, layout, dropout=self.dropout, keys=dropout_keys, sides=sides
        )
        return context.flatten(1)


class Attention(AttentionCore):
    """Multi-head attention of every token to the visible tokens of its own sequence."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float) -> None:
        super().__init__(hidden_size, num_heads, dropout)
        self.query = Linear(hidden_size, hidden_size)
        self.key = Linear(hidden_size, hidden_size)
        self.value = Linear(hidden_size, hidden_size)
        self.output = Linear(hidden_size, hidden_size)

    def forward(
        self,
        x: Tensor,
        layout: Layout,
        dropout_keys: Tensor | None = None,
        weights_wanted: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """x [T, D], dropout keys [T] -> ([T, D], probabilities [B, heads, L, L] if wanted)."""
        query, key, value = joined_linear(x, (self.query, self.key, self.value))
        context, weights = self.attend(query, key, value, layout, dropout_keys, weights_wanted)
        return self.output(context), weights
