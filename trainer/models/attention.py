"""Bidirectional attention over flat sequences: plain products, SDPA, a varlen or Triton kernel.

T tokens, B sequences, the longest of L; D = heads x channels.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from trainer.models.dropout import Dropout, head_keys
from trainer.models.flash_attention import fits_flash_kernel, flash_attention
from trainer.models.fused_attention import fits_varlen_kernel, grid_attention, varlen_attention
from trainer.models.grids import attend_by_length, is_split_by_length
from trainer.models.linear import Linear, joined_linear
from trainer.models.packing import Layout

Path = Literal["plain", "sdpa", "varlen", "flash"]

LONG_ON_CPU = 512
"""From this length on a CPU does not hold the [L, L] probabilities: SDPA bounds the memory."""


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
    """How to compute attention. Only the plain path gives the probabilities.

    Dropout is in the plain path and in our Triton kernel (flash). The kernels need that every key
    in the batch may be seen, and torch's (varlen) half precision. On a CPU, plain products beat
    SDPA's backward on short sequences.
    """
    if dropping and fits_flash and not weights_wanted and not hidden_keys:
        return "flash"
    if dropping or weights_wanted:
        return "plain"
    if device_type == "cuda":
        half = dtype in (torch.float16, torch.bfloat16)
        return "varlen" if half and fits_varlen and not hidden_keys else "sdpa"
    return "sdpa" if longest >= LONG_ON_CPU else "plain"


class AttentionCore(nn.Module):
    """Multi-head attention over queries, keys and values; whoever inherits makes them."""

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
        keys: Tensor | None,
        weights_wanted: bool,
        window: int | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """query, key, value [T, D], dropout keys [T] -> ([T, D], probabilities if wanted).

        With `window` a token sees those that are at most so many columns away.
        """
        path = choose_path(
            query.device.type,
            query.dtype,
            layout.longest,
            fits_varlen=fits_varlen_kernel(query.device, self.channels),
            fits_flash=self.dropout.active
            and fits_flash_kernel(query.device, query.dtype, self.channels),
            dropping=self.dropout.active,
            weights_wanted=weights_wanted,
            hidden_keys=layout.visible is not None or (window is not None and layout.has_gaps),
        )
        if path == "varlen":
            return self._varlen(query, key, value, layout, window), None
        if path == "flash":
            return self._flash(query, key, value, layout, keys, window), None
        if path == "sdpa":
            query, key, value = (self._heads(part, layout) for part in (query, key, value))
            context = grid_attention(query, key, value, layout.visible_pairs(window))
            return layout.from_grid(context.transpose(1, 2).flatten(2)), None
        if weights_wanted or not is_split_by_length(layout, self.num_heads):
            return self._plain(query, key, value, keys, layout, window, weights_wanted)

        def plain(q: Tensor, k: Tensor, v: Tensor, keys: Tensor | None, part: Layout) -> Tensor:
            return self._plain(q, k, v, keys, part, window, False)[0]

        return attend_by_length(plain, query, key, value, keys, layout), None

    def _heads(self, x: Tensor, layout: Layout) -> Tensor:
        """[T, D] -> [B, heads, L, channels]."""
        return layout.to_grid(x).unflatten(2, (self.num_heads, self.channels)).transpose(1, 2)

    def _plain(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        keys: Tensor | None,
        layout: Layout,
        window: int | None,
        weights_wanted: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """As `attend`, with all scores in one grid."""
        query, key, value = (self._heads(part, layout) for part in (query, key, value))
        mask = layout.visible_pairs(window)
        grid = None if keys is None else head_keys(layout.to_grid(keys), self.num_heads)
        context, weights = self._products(query, key, value, mask, grid, weights_wanted)
        return layout.from_grid(context.transpose(1, 2).flatten(2)), weights

    def _products(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        keys: Tensor | None,
        weights_wanted: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """query, key, value [B, H, L, C], dropout keys [B, H, L] -> ([B, H, L, C], weights)."""
        scores = (query * self.channels**-0.5) @ key.transpose(-1, -2)  # [B, heads, L, L]
        if mask is not None:
            scores += torch.zeros_like(mask, dtype=scores.dtype).masked_fill_(~mask, -torch.inf)
        weights = scores.softmax(-1).to(value.dtype)
        if not self.dropout.active or keys is None or weights_wanted:
            weights = self.dropout(weights, keys)
            return weights @ value, weights if weights_wanted else None
        # Scaling the context instead of the probabilities saves passes over [L, L].
        kept = weights * self.dropout.mask(weights, keys)
        return (kept @ value) * self.dropout.scale, None

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
        keys: Tensor | None,
        window: int | None,
    ) -> Tensor:
        shape = (self.num_heads, self.channels)
        query, key, value = (part.unflatten(1, shape) for part in (query, key, value))
        sides = window, window
        context = flash_attention(
            query, key, value, layout, dropout=self.dropout, keys=keys, sides=sides
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
        self, x: Tensor, layout: Layout, keys: Tensor | None = None, weights_wanted: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """x [T, D], dropout keys [T] -> ([T, D], probabilities [B, heads, L, L] if wanted)."""
        query, key, value = joined_linear(x, (self.query, self.key, self.value))
        context, weights = self.attend(query, key, value, layout, keys, weights_wanted)
        return self.output(context), weights
