"""The cache for generating texts token by token with a transformers encoder-decoder.

Dimensions: B texts of equal lengths, n new tokens in each, T = B x n new tokens in all, at most S
tokens in a source, D channels.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trainer.errors import InputError
from trainer.interop.foreign_types import ForeignPast

Decode = Callable[..., Tensor]
"""(ids [B, n], the sources' mask [B, S] and states [B, S, D], options) -> states [B, n, D]."""


class ForeignSourceCache:
    """The sources, and either transformers' key/value cache or the generated tokens."""

    def __init__(self, num_sequences: int, has_past: bool) -> None:
        """If `has_past` is false, every call recomputes the whole texts."""
        self.lengths = torch.zeros(num_sequences, dtype=torch.int64)
        """[B] on the CPU, the number of cached tokens of the decoder"""
        self.states: Tensor | None = None
        """[B, S, D], the encoder's output; None before the first call"""
        self._seen = torch.zeros(0)
        self._past: ForeignPast | None = _new_past() if has_past else None
        self._ids: Tensor | None = None

    def begin(self, states: Tensor, seen: Tensor) -> None:
        """Store the encoder's states [B, S, D] and mask [B, S]."""
        self.states, self._seen = states, seen

    def extend(self, decode: Decode, ids: Tensor, lengths: Tensor) -> Tensor:
        """The states [T, D] of the new tokens `ids` [T]; `lengths` [B] is on the CPU.

        Raises InputError for texts of different lengths.
        """
        if bool((lengths != lengths[0]).any()):
            found = f"found texts of {int(lengths.min())} to {int(lengths.max())} tokens"
            raise InputError(f"decoder_input_ids: {found}; accepted: texts of equal lengths")
        new = ids.view(len(lengths), -1)
        options: dict[str, Any] = {}
        grid = new if self._ids is None else torch.cat((self._ids, new), 1)
        if self._past is not None:
            options = {"past_key_values": self._past, "use_cache": True}
        given = grid if self._past is None else new
        hidden = decode(given, self._seen, self.states, **options)[:, -new.shape[1] :]
        self._ids, self.lengths = grid, self.lengths + lengths
        return hidden.flatten(0, 1)

    def keep(self, sequences: Tensor) -> None:
        """Keep only the texts with these indices [b], on the CPU, in this order."""
        self.lengths = self.lengths[sequences]
        if self.states is None or self._ids is None:
            return
        rows = sequences.to(self.states.device)
        self.states, self._seen, self._ids = self.states[rows], self._seen[rows], self._ids[rows]
        if self._past is not None:
            self._past.batch_select_indices(rows)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each text; the copies of a text are next to each other."""
        self.keep(torch.arange(len(self.lengths)).repeat_interleave(repeats))

    def reorder_continuations(self, sequences: Tensor, shared: int) -> None:
        """Replace text i by text sequences[i], for `sequences` [B]; `shared` is ignored."""
        self.keep(sequences.cpu())

    def cut_back(self, length: int) -> None:
        """Raise InputError, since encoder-decoders cannot continue a chat."""
        raise InputError("chat: found an encoder-decoder; accepted: a causal language model")


def _new_past() -> ForeignPast:
    from transformers import DynamicCache, EncoderDecoderCache

    return EncoderDecoderCache(DynamicCache(), DynamicCache())
