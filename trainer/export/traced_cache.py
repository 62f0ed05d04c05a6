"""TracedCache: the keys and values that a traced graph takes as inputs and returns as outputs."""

from collections.abc import Sequence

import torch
from torch import Tensor

from trainer.models.cache import KeyValueCache
from trainer.models.packing import Layout


class TracedCache(KeyValueCache):
    """A cache that never modifies its tensors: every call creates new ones.

    The letters in shapes: B sequences, P cached columns, L new columns, K key heads with C channels
    each.
    """

    def __init__(self, past: Sequence[Tensor], mask: Tensor, length: int) -> None:
        """`past` holds the keys and the values [B, K, P, C] of each layer, in turn.

        `mask` is [B, P + L], and `length` is L.
        """
        self.present: list[Tensor] = []
        """The keys and the values [B, K, P + L, C] of each layer, in turn, after the call."""
        self.is_empty = False
        self.width = past[0].shape[2]
        self.new = torch.arange(length, device=mask.device) + self.width
        """The columns [L] of the new tokens; with a slice instead of these indices, the traced
        graph would not accept an empty cache."""
        self._past = past
        self._mask = mask

    def append(
        self, layer: int, key: Tensor, value: Tensor, layout: Layout
    ) -> tuple[Tensor, Tensor]:
        """Add the keys and values [B x L, K, C] of the new tokens.

        Returns the keys and the values of all tokens, [B, K, P + L, C].
        """
        pasts = self._past[2 * layer], self._past[2 * layer + 1]
        keys, values = (
            torch.cat((past, layout.to_grid(new).transpose(1, 2).to(past.dtype)), 2)
            for past, new in zip(pasts, (key, value), strict=True)
        )
        self.present += [keys, values]
        return keys, values

    def visible(self, layout: Layout, width: int, window: int | None) -> Tensor:
        """Whether each new token sees each column, [B, L, P + L] bool.

        A token sees itself and the visible tokens before it. A pad sees itself too, so that no row
        of the mask is all false.
        """
        columns = torch.arange(self._mask.shape[1], device=self._mask.device)
        rows = self.new.unsqueeze(1)
        near = columns <= rows
        if window is not None:
            near = near & (columns >= rows - window)
        return (near & (self._mask != 0).unsqueeze(1)) | (columns == rows)

    def advance(self, layout: Layout) -> None:
        """Do nothing, because the caller passes the new tensors to the next call."""
