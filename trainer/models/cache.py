"""KeyValueCache: the keys and values of earlier tokens, which generation need not recompute.

Dimensions: B sequences, T new tokens, K key heads of C channels.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from trainer.errors import InputError
from trainer.models.packing import Layout

ROOM = 64
"""The minimum number of columns by which a full cache grows."""


class TextCache(Protocol):
    """The interface of a cache of B growing texts, as generation uses it."""

    lengths: Tensor
    """[B] on the CPU, the number of tokens of each text that finished calls have cached"""

    def keep(self, sequences: Tensor) -> None:
        """Keep only the texts with these indices [b], on the CPU, in this order."""

    def cut_back(self, length: int) -> None:
        """Drop the tokens after the first `length` of each text; a cache may drop more tokens."""

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each text; its copies are adjacent."""

    def reorder_continuations(self, sequences: Tensor, shared: int) -> None:
        """Replace each text by the text with the index in `sequences` [B]; both share a prompt."""


class KeyValueCache:
    """The keys and values of B growing sequences, one grid for each layer.

    A model called with it appends the keys and values of the call's tokens.
    """

    def __init__(self, num_sequences: int, most_columns: int | None = None) -> None:
        """`most_columns`: the largest number of tokens that a sequence can have, if it is known."""
        self._most_columns = most_columns
        self.lengths = torch.zeros(num_sequences, dtype=torch.int64)
        """[B] on the CPU, the number of tokens of each sequence that finished calls have cached"""
        self.is_empty = True
        """Whether no tokens are cached yet"""
        self.width = 0
        """The number of columns in the padded calls so far, including pads"""
        self.grids: dict[int, tuple[Tensor, Tensor]] = {}
        """Layer -> keys and values [B, K, columns, C], undefined after the end of a sequence"""
        self._call: _Call | None = None

    def append(
        self, layer: int, key: Tensor, value: Tensor, layout: Layout
    ) -> tuple[Tensor, Tensor]:
        """Store key and value [T, K, C] of new tokens; returns all keys and values [B, K, n, C].

        n is the length of the longest sequence. Columns after the end of a shorter sequence are
        undefined.
        """
        call = self._call_of(layout)
        grids = self._with_room(layer, key, call.needed)
        for grid, new in zip(grids, (key, value), strict=True):
            grid[call.sequence, :, call.column] = new.to(grid.dtype)
        return grids[0][:, :, : call.needed], grids[1][:, :, : call.needed]

    def columns(self, layout: Layout) -> Tensor:
        """[T], the column of each new token, which is its position."""
        return self._call_of(layout).column

    def visible(self, layout: Layout, width: int, window: int | None) -> Tensor:
        """[B, L, width] bool, whether a new token of the grid [B, L] sees a column.

        A token sees itself and the earlier columns, up to `window` columns back; None: all of them.
        """
        masks = self._call_of(layout).masks
        if window not in masks:
            columns = torch.arange(width, device=layout.device)
            own = layout.to_grid(self.columns(layout)).unsqueeze(2)  # [B, L, 1]
            seen = columns <= own
            masks[window] = seen if window is None else seen & (columns >= own - window)
        return masks[window]

    def advance(self, layout: Layout) -> None:
        """Count the call's tokens as cached, once every layer has written them."""
        self.width += layout.width or 0
        self._set_lengths(self.lengths + layout.lengths)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """The number of columns so far, which all layers have, under transformers' name."""
        return self.width or int(self.lengths.max())

    def crop(self, max_length: int) -> None:
        """Keep `max_length` columns, or drop the last -`max_length` if it is negative.

        The name is transformers'.

        Raises InputError after padded calls in which sequences had pads.
        """
        wanted = max_length if max_length >= 0 else max(0, self.get_seq_length() + max_length)
        if bool((self.lengths != self.get_seq_length()).any()):
            raise InputError("crop: found sequences with pads; accepted: sequences without any")
        self.width = min(self.width, wanted)
        self.cut_back(wanted)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only these sequences, in this order. The name is transformers'."""
        self.keep(indices.cpu())

    reorder_cache = batch_select_indices

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each sequence; its copies are adjacent. The name is transformers'."""
        self.keep(torch.arange(len(self.lengths)).repeat_interleave(repeats))

    def keep(self, sequences: Tensor) -> None:
        """Keep only the sequences with these indices [b], on the CPU, in this order."""
        self._set_lengths(self.lengths[sequences])
        for layer, grids in self.grids.items():
            rows = sequences.to(grids[0].device, non_blocking=True)
            self.grids[layer] = grids[0].index_select(0, rows), grids[1].index_select(0, rows)

    def reorder_continuations(self, sequences: Tensor, shared: int) -> None:
        """Replace each sequence by the sequence with the index in `sequences` [B].

        Both must share a prompt of at least `shared` tokens and have equal lengths: only the
        tokens after `shared` of sequences that change are copied.
        """
        own = torch.arange(len(sequences), device=sequences.device)
        changed = (sequences != own).nonzero().flatten()
        taken, columns = sequences[changed], slice(shared, int(self.lengths.max()))
        for grids in self.grids.values():
            for grid in grids:
                grid[changed, :, columns] = grid[taken, :, columns]

    def cut_back(self, length: int) -> None:
        """Drop everything after the first `length` tokens of each sequence."""
        self._set_lengths(self.lengths.clamp(max=length))

    def _set_lengths(self, lengths: Tensor) -> None:
        self.lengths, self.is_empty, self._call = lengths, not lengths.any(), None

    def _call_of(self, layout: Layout) -> "_Call":
        """The indices that all layers of a call share, which are sent to the device once."""
        if self._call is None or self._call.layout is not layout:
            starts = self.lengths - (layout.lengths.cumsum(0) - layout.lengths)
            column = torch.arange(layout.num_tokens) + starts.repeat_interleave(layout.lengths)
            sequence = torch.arange(layout.num_sequences).repeat_interleave(layout.lengths)
            both = torch.stack((sequence, column)).to(layout.device, non_blocking=True)
            needed = int((self.lengths + layout.lengths).max())
            self._call = _Call(layout, both[0], both[1], needed, {})
        return self._call

    def _with_room(self, layer: int, key: Tensor, needed: int) -> tuple[Tensor, Tensor]:
        """The layer's grids with at least `needed` columns."""
        old = self.grids.get(layer)
        if old is None or old[0].shape[2] < needed:
            room = needed + max(ROOM, needed // 4)
            if self._most_columns is not None:
                room = max(needed, min(room, self._most_columns))
            shape = (len(self.lengths), key.shape[1], room, key.shape[2])
            self.grids[layer] = key.new_zeros(shape), key.new_zeros(shape)
            for new, grid in zip(self.grids[layer], old or (), strict=False):
                new[:, :, : grid.shape[2]] = grid
        return self.grids[layer]


class SourceCache(KeyValueCache):
    """The cache of an encoder-decoder's decoder: keys and values of its tokens and the encoder's.

    S is the length of the longest encoder sequence, H the number of heads.
    """

    def __init__(self, num_sequences: int) -> None:
        super().__init__(num_sequences)
        self.sources: dict[int, tuple[Tensor, Tensor]] = {}
        """Layer -> the keys and values [B, H, S, C] of the encoder's tokens"""
        self.seen: Tensor | None = None
        """[B, 1, 1, S] bool, False at the encoder's pads; None: the encoder has not run yet"""

    def keep(self, sequences: Tensor) -> None:
        """Keep the sequences with these indices [b], on the CPU, in this order; they may repeat."""
        super().keep(sequences)
        assert self.seen is not None
        rows = sequences.to(self.seen.device, non_blocking=True)
        self.seen = self.seen.index_select(0, rows)
        for layer, (key, value) in self.sources.items():
            self.sources[layer] = key.index_select(0, rows), value.index_select(0, rows)


@dataclass(frozen=True)
class _Call:
    """The rows and columns of the grids in which a model call stores its T tokens."""

    layout: Layout
    sequence: Tensor
    """[T] on the device, the sequence of each token"""
    column: Tensor
    """[T] on the device, the column of each token"""
    needed: int
    """The number of columns that the cache needs once these tokens are stored"""
    masks: dict[int | None, Tensor]
    """Window -> the mask of columns that the tokens see"""
