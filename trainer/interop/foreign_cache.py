"""Caches for generating texts token by token with transformers models.

The letters in shapes: B texts, T new tokens in all texts, at most L new tokens in a text, D
channels.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trainer.interop.foreign_types import ForeignConfig, ForeignPast
from trainer.models.packing import Layout

Grid = Callable[[Tensor, Layout], dict[str, Any]]
"""A function from flat ids [T] to named inputs, whose rows are padded at their ends."""
Forward = Callable[[dict[str, Any]], Tensor]
"""A function from padded, named inputs to the last hidden states [B, L, D]."""


class ForeignCache:
    """Stores keys and values in transformers' cache. New tokens are padded on the left."""

    def __init__(
        self, num_sequences: int, config: ForeignConfig, pad: int, takes_positions: bool
    ) -> None:
        self.lengths = torch.zeros(num_sequences, dtype=torch.int64)
        """The number of cached tokens of each text, [B] on the CPU."""
        self._config, self._pad, self._takes_positions = config, pad, takes_positions
        self._past = _new_past(config)
        self._seen: Tensor | None = None
        """[B, columns] bool: whether each column of the cache holds a token instead of a pad."""

    def extend(self, forward: Forward, ids: Tensor, lengths: Tensor) -> Tensor:
        """Compute the hidden states [T, D] of the new tokens `ids` [T].

        `lengths` [B], on the CPU, are the numbers of new tokens of the texts.
        """
        width = int(lengths.max())
        new = (torch.arange(width) >= (width - lengths).unsqueeze(1)).to(ids.device)
        one_each = width == 1 and len(ids) == len(lengths)
        grid = ids.unsqueeze(1)
        if not one_each:
            grid = ids.new_full(new.shape, self._pad)
            grid[new] = ids
        seen = new if self._seen is None else torch.cat((self._seen, new), 1)
        inputs: dict[str, Any] = {"input_ids": grid, "attention_mask": seen.long()}
        if self._takes_positions:
            before = self.lengths.to(ids.device).unsqueeze(1)
            inputs["position_ids"] = (before + new.cumsum(1) - 1).masked_fill(~new, 0)
        hidden = forward({**inputs, "past_key_values": self._past, "use_cache": True})
        self._seen, self.lengths = seen, self.lengths + lengths
        return hidden[:, 0] if one_each else hidden[new]

    def keep(self, sequences: Tensor) -> None:
        """Keep only the texts with these indices [b], on the CPU, in this order."""
        self.lengths = self.lengths[sequences]
        if self._seen is not None:
            rows = sequences.to(self._seen.device)
            self._seen = self._seen[rows]
            self._past.batch_select_indices(rows)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each text; the copies of a text are next to each other."""
        self.keep(torch.arange(len(self.lengths)).repeat_interleave(repeats))

    def reorder_continuations(self, sequences: Tensor, shared: int) -> None:
        """Replace each text by the text whose index is in `sequences` [B]."""
        self.keep(sequences.cpu())

    def cut_back(self, length: int) -> None:
        """Keep only the first `length` tokens of a single text.

        If transformers cannot shorten the cache, for example with sliding windows, nothing is kept.
        """
        (cached,) = self.lengths.tolist()
        if cached <= length:
            return
        if length and getattr(self._past, "is_croppable", False):
            assert self._seen is not None
            self._past.crop(length - cached)
            self._seen, self.lengths = self._seen[:, :length], torch.tensor([length])
        else:
            self._past, self._seen = _new_past(self._config), None
            self.lengths = torch.zeros(1, dtype=torch.int64)


class WholeTexts:
    """Recomputes the whole texts in every call, for models that cannot use transformers' cache."""

    def __init__(self, num_sequences: int, grid: Grid) -> None:
        self.lengths = torch.zeros(num_sequences, dtype=torch.int64)
        self._grid = grid
        self._texts: list[Tensor] = [torch.zeros(0, dtype=torch.int64)] * num_sequences

    def extend(self, forward: Forward, ids: Tensor, lengths: Tensor) -> Tensor:
        """Like `ForeignCache.extend`."""
        parts = zip(self._texts, ids.split(lengths.tolist()), strict=True)
        self._texts = [torch.cat((text.to(ids.device), new)) for text, new in parts]
        self.lengths = self.lengths + lengths
        layout = Layout(self.lengths, ids.device)
        hidden = forward(self._grid(torch.cat(self._texts), layout))
        ends = zip(hidden, self.lengths.tolist(), lengths.tolist(), strict=True)
        return torch.cat([row[end - new : end] for row, end, new in ends])

    def keep(self, sequences: Tensor) -> None:
        """Like `ForeignCache.keep`."""
        self._texts = [self._texts[index] for index in sequences.tolist()]
        self.lengths = self.lengths[sequences]

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Like `ForeignCache.batch_repeat_interleave`."""
        self.keep(torch.arange(len(self.lengths)).repeat_interleave(repeats))

    def reorder_continuations(self, sequences: Tensor, shared: int) -> None:
        """Like `ForeignCache.reorder_continuations`."""
        self.keep(sequences.cpu())

    def cut_back(self, length: int) -> None:
        """Keep only the first `length` tokens of each text."""
        self._texts = [text[:length] for text in self._texts]
        self.lengths = self.lengths.clamp(max=length)


def _new_past(config: ForeignConfig) -> ForeignPast:
    from transformers import DynamicCache

    return DynamicCache(config=config)
