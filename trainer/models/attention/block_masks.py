"""The keys that a block of queries sees, for attention in blocks.

Dimensions: a grid has b sequences with l queries and s keys each, and H heads.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trainer.models.attention.score_bias import block_distances


@dataclass(frozen=True)
class GridMask:
    """The mask of one grid, computed for one block of queries at a time."""

    causal: bool = False
    """Whether queries do not see later keys"""
    window: int | None = None
    """The largest distance, in columns of the caller's grid, from a query to a key that it sees"""
    offset: int = 0
    """The position of the first query in its sequence of keys"""
    hidden: Tensor | None = None
    """[b, 1, 1, s] bool, True for pads and masked keys"""
    columns: Tensor | None = None
    """[b, s], the caller's column of each token, for a window; None: they are consecutive"""
    pairs: Tensor | None = None
    """[b or 1, H or 1, l, s], True where a query sees a key, or floats added to the scores. It
    replaces all other masks
    """

    def part(self, sequences: slice) -> "GridMask":
        """The mask of some sequences of the grid."""
        return replace(
            self,
            hidden=None if self.hidden is None else self.hidden[sequences],
            columns=None if self.columns is None else self.columns[sequences],
            pairs=self.pairs
            if self.pairs is None or len(self.pairs) == 1
            else self.pairs[sequences],
        )

    def keys_of(self, rows: slice, num_keys: int) -> slice:
        """The range of keys in the window of a block of queries; without a window, all keys."""
        if self.window is None or self.pairs is not None:
            return slice(0, num_keys)
        start, stop = rows.start + self.offset, rows.stop + self.offset
        end = stop if self.causal else stop + self.window
        return slice(max(0, start - self.window), min(num_keys, end))

    def apply(self, scores: Tensor, rows: slice, keys: slice) -> Tensor:
        """Mask the scores [b, H, rows, keys] of a block; every query keeps at least one key."""
        if self.pairs is not None:
            seen = self.pairs[:, :, rows, keys]
            return scores.masked_fill(~seen, -torch.inf) if _is_bool(seen) else scores + seen
        hidden = self._hidden(rows, keys, scores.device)
        return scores if hidden is None else scores.masked_fill(hidden, -torch.inf)

    def _hidden(self, rows: slice, keys: slice, device: torch.device) -> Tensor | None:
        """True where a query does not see a key, broadcastable to [b, H, rows, keys]."""
        hidden = None if self.hidden is None else self.hidden[..., keys]
        if not self.causal and self.window is None:
            return hidden
        distance = block_distances(rows, keys, self.offset, device)
        if hidden is not None:  # a query always sees itself
            hidden = hidden & ((distance < 0) if self.causal else (distance != 0))
        if self.causal:
            hidden = _either(distance > 0, hidden)
        if self.window is not None:
            hidden = _either(self._away(rows, keys, distance) > self.window, hidden)
        return hidden

    def _away(self, rows: slice, keys: slice, distance: Tensor) -> Tensor:
        """The distances in columns from queries to keys, [rows, keys] or [b, 1, rows, keys]."""
        if self.columns is None:
            return distance.abs()
        queries = self.columns[:, rows].unsqueeze(-1)
        return (self.columns[:, keys].unsqueeze(1) - queries).abs().unsqueeze(1)


def _either(hidden: Tensor, other: Tensor | None) -> Tensor:
    return hidden if other is None else hidden | other


def _is_bool(x: Tensor) -> bool:
    return x.dtype == torch.bool
