"""BatchEncoding: the result of a tokenizer's call, which also maps tokens to characters."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, Self

import tokenizers
import torch

from trainer.errors import InputError
from trainer.tokenizer.tensors import as_tensors

log = logging.getLogger("trainer")


class CharSpan(NamedTuple):
    """The characters of a text from `start` up to but excluding `end`."""

    start: int
    end: int


class TokenSpan(NamedTuple):
    """The tokens of a row from `start` up to but excluding `end`."""

    start: int
    end: int


class BatchEncoding(dict[str, Any]):
    """A dictionary with input_ids, attention_mask and the other columns of the call.

    Columns can also be read as attributes. Indexing with an int or a slice returns items of
    `encodings`. The batch index of a method may be omitted for the first row: `token_to_chars(4)`.
    """

    def __init__(
        self,
        data: Mapping[str, Any] | None = None,
        encoding: tokenizers.Encoding | Sequence[tokenizers.Encoding] | None = None,
        tensor_type: str | None = None,
        prepend_batch_axis: bool = False,
        n_sequences: int | None = None,
        *,
        align: Callable[[], list[tokenizers.Encoding]] | None = None,
    ) -> None:
        """Make a dictionary of the columns in `data`, as tensors of `tensor_type` if it is given.

        `encoding` has the rows with offsets. Alternatively `align` returns these rows; it is called
        when they are first needed. `n_sequences` is 2 for pairs of texts.
        """
        super().__init__(data or {})
        if encoding is not None:
            rows = [encoding] if isinstance(encoding, tokenizers.Encoding) else list(encoding)
            align = lambda: rows  # noqa: E731
            n_sequences = n_sequences or (rows[0].n_sequences if rows else None)
        self._align = align
        self._n_sequences = n_sequences
        self.convert_to_tensors(tensor_type, prepend_batch_axis)

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(f"{type(self).__name__} has no '{name}'; it has {', '.join(self)}")

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice) and not self.is_fast:
            return {name: values[key] for name, values in self.items()}
        return self.encodings[key] if isinstance(key, (int, slice)) else super().__getitem__(key)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy only the columns."""
        return type(self), (dict(self), None, None, False, self._n_sequences)

    @property
    def data(self) -> dict[str, Any]:
        """This dictionary of columns, under its name in transformers."""
        return self

    @data.setter
    def data(self, columns: Mapping[str, Any]) -> None:
        columns = dict(columns)
        self.clear()
        self.update(columns)

    @property
    def n_sequences(self) -> int | None:
        """The number of texts in a row: 1, or 2 for pairs; None if it is unknown."""
        return self._n_sequences

    @property
    def is_fast(self) -> bool:
        """Whether there are `encodings`; a copy, or a result of `pad`, has none."""
        return self._align is not None

    def convert_to_tensors(
        self, tensor_type: str | None = None, prepend_batch_axis: bool = False
    ) -> Self:
        """Convert the columns to pt, np or tf tensors in place; returns this object.

        `prepend_batch_axis` makes a batch of one row. Raises InputError if rows differ in length.
        """
        if tensor_type is not None:
            rows = {name: [value] if prepend_batch_axis else value for name, value in self.items()}
            self.update(as_tensors(rows, str(getattr(tensor_type, "value", tensor_type))))
        return self

    def to(self, device: str | int | torch.device, *, non_blocking: bool = False) -> Self:
        """Move the torch tensors to `device` in place, with their dtypes; returns this object."""
        if not isinstance(device, (str, int, torch.device)):
            log.warning("BatchEncoding.to: found %s; accepted: a device; ignored", device)
            return self
        for name, value in self.items():
            if isinstance(value, torch.Tensor):
                self[name] = value.to(device, non_blocking=non_blocking)
        return self

    @cached_property
    def encodings(self) -> list[tokenizers.Encoding]:
        """A `tokenizers.Encoding` for each row, including its padding.

        Since most callers do not need offsets, which cost time and memory, the texts are encoded
        again, with offsets, on the first access. Raises InputError if `is_fast` is false.
        """
        if self._align is None:
            raise InputError(
                "encodings: a copy, or what `pad` returned, has no access to its texts"
            )
        return self._align()

    def tokens(self, batch_index: int = 0) -> list[str]:
        """The tokens of a row."""
        return self.encodings[batch_index].tokens

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """The index of the word to which each token of a row belongs; None for special tokens."""
        return self.encodings[batch_index].word_ids

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """The index of the text (0 or 1) to which each token belongs; None for special tokens."""
        return self.encodings[batch_index].sequence_ids

    def token_to_sequence(self, batch_or_token: int, token: int | None = None) -> int | None:
        """The index (0 or 1) of the text of a pair to which a token belongs."""
        row, token = self._row_and_index(batch_or_token, token)
        return row.token_to_sequence(token)

    def token_to_word(self, batch_or_token: int, token: int | None = None) -> int | None:
        """The index of the word to which a token belongs."""
        row, token = self._row_and_index(batch_or_token, token)
        return row.token_to_word(token)

    def token_to_chars(self, batch_or_token: int, token: int | None = None) -> CharSpan | None:
        """The span of a token's characters; None for special tokens."""
        row, token = self._row_and_index(batch_or_token, token)
        span = row.token_to_chars(token)
        return None if span is None else CharSpan(*span)

    def char_to_token(
        self, batch_or_char: int, char: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """The index of a character's token; None for a character without one, such as a space."""
        row, char = self._row_and_index(batch_or_char, char)
        return row.char_to_token(char, sequence_index)

    def char_to_word(
        self, batch_or_char: int, char: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """The index of the word to which a character belongs."""
        row, char = self._row_and_index(batch_or_char, char)
        return row.char_to_word(char, sequence_index)

    def word_to_tokens(
        self, batch_or_word: int, word: int | None = None, sequence_index: int = 0
    ) -> TokenSpan | None:
        """The span of a word's tokens."""
        row, word = self._row_and_index(batch_or_word, word)
        span = row.word_to_tokens(word, sequence_index)
        return None if span is None else TokenSpan(*span)

    def word_to_chars(
        self, batch_or_word: int, word: int | None = None, sequence_index: int = 0
    ) -> CharSpan | None:
        """The span of a word's characters."""
        row, word = self._row_and_index(batch_or_word, word)
        span = row.word_to_chars(word, sequence_index)
        return None if span is None else CharSpan(*span)

    def _row_and_index(
        self, batch_or_index: int, index: int | None
    ) -> tuple[tokenizers.Encoding, int]:
        """The row's encoding and the index in the row; a single argument is an index in row 0."""
        row, index = (0, batch_or_index) if index is None else (batch_or_index, index)
        return self.encodings[row], index
