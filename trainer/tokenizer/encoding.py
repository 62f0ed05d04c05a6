"""BatchEncoding: what a tokenizer returns, and where in the text each token comes from."""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, NamedTuple, Self

import tokenizers
import torch

from trainer.errors import InputError


class CharSpan(NamedTuple):
    """Characters `start` to `end` of a text, without `end`."""

    start: int
    end: int


class TokenSpan(NamedTuple):
    """Tokens `start` to `end` of a row, without `end`."""

    start: int
    end: int


class BatchEncoding(dict[str, Any]):
    """A mapping with input_ids, attention_mask and what else the family takes or was asked for.

    Its values are read by key or attribute. An int or a slice is a row of `encodings`. Methods
    with a batch index may leave it out for the first row: `token_to_chars(4)`.
    """

    def __init__(
        self,
        columns: Mapping[str, Any],
        align: Callable[[], list[tokenizers.Encoding]] | None = None,
    ) -> None:
        """`align` gives the rows with their offsets, and is called when they are first used."""
        super().__init__(columns)
        self._align = align

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(f"{type(self).__name__} has no '{name}'; it has {', '.join(self)}")

    def __getitem__(self, key: Any) -> Any:
        return self.encodings[key] if isinstance(key, (int, slice)) else super().__getitem__(key)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copied and sent to other processes as the values alone."""
        return type(self), (dict(self),)

    def to(self, device: str | int | torch.device, *, non_blocking: bool = False) -> Self:
        """Move the torch tensors to `device`, in place; returns itself."""
        for name, value in self.items():
            if isinstance(value, torch.Tensor):
                self[name] = value.to(device, non_blocking=non_blocking)
        return self

    @cached_property
    def encodings(self) -> list[tokenizers.Encoding]:
        """One `tokenizers.Encoding` per row, padded as the row is.

        Offsets cost time and memory that most callers have no use for, so the texts are encoded
        once more with them when this is first asked for.
        """
        if self._align is None:
            raise InputError("encodings: a copy, or what `pad` returned, no longer knows its texts")
        return self._align()

    def tokens(self, batch_index: int = 0) -> list[str]:
        """The tokens of a row."""
        return self.encodings[batch_index].tokens

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """The word that each token of a row belongs to; None for special tokens."""
        return self.encodings[batch_index].word_ids

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """0 for each token of a row's first text, 1 for its second; None for special tokens."""
        return self.encodings[batch_index].sequence_ids

    def token_to_sequence(self, batch_or_token: int, token: int | None = None) -> int | None:
        """The text of a pair that a token belongs to, 0 or 1."""
        row, token = self._place(batch_or_token, token)
        return row.token_to_sequence(token)

    def token_to_word(self, batch_or_token: int, token: int | None = None) -> int | None:
        """The word that a token belongs to."""
        row, token = self._place(batch_or_token, token)
        return row.token_to_word(token)

    def token_to_chars(self, batch_or_token: int, token: int | None = None) -> CharSpan | None:
        """The characters that a token stands for; None for special tokens."""
        row, token = self._place(batch_or_token, token)
        span = row.token_to_chars(token)
        return None if span is None else CharSpan(*span)

    def char_to_token(
        self, batch_or_char: int, char: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """The token of a character; None where none stands for it, such as white space."""
        row, char = self._place(batch_or_char, char)
        return row.char_to_token(char, sequence_index)

    def char_to_word(
        self, batch_or_char: int, char: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """The word that a character belongs to."""
        row, char = self._place(batch_or_char, char)
        return row.char_to_word(char, sequence_index)

    def word_to_tokens(
        self, batch_or_word: int, word: int | None = None, sequence_index: int = 0
    ) -> TokenSpan | None:
        """The tokens of a word."""
        row, word = self._place(batch_or_word, word)
        span = row.word_to_tokens(word, sequence_index)
        return None if span is None else TokenSpan(*span)

    def word_to_chars(
        self, batch_or_word: int, word: int | None = None, sequence_index: int = 0
    ) -> CharSpan | None:
        """The characters of a word."""
        row, word = self._place(batch_or_word, word)
        span = row.word_to_chars(word, sequence_index)
        return None if span is None else CharSpan(*span)

    def _place(self, batch_or_index: int, index: int | None) -> tuple[tokenizers.Encoding, int]:
        """The row that two numbers name, or one for the first row, and the index in it."""
        row, index = (0, batch_or_index) if index is None else (batch_or_index, index)
        return self.encodings[row], index
