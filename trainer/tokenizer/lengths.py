"""Lengths: the truncation and padding of a call, checked and passed to the backend."""

from collections.abc import Sequence
from dataclasses import dataclass

import tokenizers

from trainer.errors import InputError, nearest
from trainer.foreign.counts import whole
from trainer.tokenizer.vocabulary import Vocabulary

TRUNCATIONS = ("longest_first", "only_first", "only_second", "do_not_truncate")
PADDINGS = ("longest", "max_length", "do_not_pad")
SIDES = ("left", "right")
UNLIMITED = int(1e30)
"""The `model_max_length` of a tokenizer whose files set none; transformers uses the same number."""


LONGEST = 1 << 31
"""The maximum length to which rows are padded; truncation to more leaves every text whole."""


@dataclass(frozen=True)
class Lengths:
    """The truncation and padding of the rows of a call."""

    truncation: str
    padding: str
    limit: int
    """The maximum length of rows, and the length of padded rows if `padding` is "max_length"."""
    stride: int
    """The number of tokens that each overflowing row repeats from the previous row."""
    pad_to_multiple_of: int | None
    padding_side: str
    truncation_side: str
    pad_token: str | None
    pad_token_id: int | None
    pad_token_type_id: int = 0

    def configure(self, backend: tokenizers.Tokenizer, special: int) -> None:
        """Set the truncation and padding of the backend; each row has `special` special tokens.

        Raises InputError if the limit leaves no tokens for the text.
        """
        if self.truncation == "do_not_truncate":
            backend.no_truncation()
        else:
            self.check_room(special)
            backend.enable_truncation(
                self.limit,
                stride=self.stride,
                strategy=self.truncation,
                direction=self.truncation_side,
            )
        if self.padding == "do_not_pad":
            backend.no_padding()
        else:
            backend.enable_padding(
                direction=self.padding_side,
                pad_id=self.pad_token_id,
                pad_token=self.pad_token,
                pad_type_id=self.pad_token_type_id,
                length=self.limit if self.padding == "max_length" else None,
                pad_to_multiple_of=self.pad_to_multiple_of,
            )

    def check_room(self, special: int) -> None:
        """Raise InputError if rows with `special` special tokens have no room for a text."""
        # the backend would not truncate if the special tokens alone exceeded the limit
        if self.limit < max(1, special):
            raise InputError(
                f"max_length: found {self.limit}; accepted: {max(1, special)} or more, "
                f"of which {special} are special tokens"
            )
        if self.stride and self.stride >= self.limit - special:
            accepted = f"less than {self.limit - special}, the tokens of text in a row"
            raise InputError(f"stride: found {self.stride}; accepted: {accepted}")


def lengths(
    vocabulary: Vocabulary,
    padding: bool | str,
    truncation: bool | str | None,
    max_length: int | None,
    stride: int = 0,
    pad_to_multiple_of: int | None = None,
    padding_side: str | None = None,
) -> Lengths:
    """The truncation and padding for the arguments of a call, with the tokenizer's defaults.

    Raises InputError for invalid values, and for arguments that contradict each other.
    """
    if truncation is None:
        truncation = max_length is not None and padding is False
    if isinstance(truncation, bool):
        truncation = "longest_first" if truncation else "do_not_truncate"
    if isinstance(padding, bool):
        padding = "longest" if padding else "do_not_pad"
    accept("truncation", truncation, TRUNCATIONS)
    accept("padding", padding, PADDINGS)
    accept("padding_side", padding_side or vocabulary.padding_side, SIDES)
    accept("truncation_side", vocabulary.truncation_side, SIDES)
    max_length = accept_number("max_length", max_length, at_least=None)
    pad_to_multiple_of = accept_number("pad_to_multiple_of", pad_to_multiple_of, at_least=1)
    limit = vocabulary.model_max_length if max_length is None else max_length
    found = Lengths(
        truncation="do_not_truncate" if limit > LONGEST else truncation,
        padding=padding,
        limit=limit,
        stride=accept_number("stride", stride, at_least=0) or 0,
        pad_to_multiple_of=pad_to_multiple_of,
        padding_side=padding_side or vocabulary.padding_side,
        truncation_side=vocabulary.truncation_side,
        pad_token=vocabulary.pad_token,
        pad_token_id=vocabulary.pad_token_id,
        pad_token_type_id=vocabulary.pad_token_type_id,
    )
    if padding != "do_not_pad":
        _check_padding(found)
    return found


def accept(argument: str, found: object, accepted: Sequence[str]) -> None:
    """Raise InputError if `found` is not among the accepted values."""
    if found not in accepted:
        hint = nearest(str(found), accepted)
        raise InputError(f"{argument}: found {found!r}; accepted: {', '.join(accepted)}{hint}")


def accept_number(argument: str, found: object, at_least: int | None) -> int | None:
    """The number as an int, or None. Raises InputError unless it is whole and >= `at_least`."""
    if found is None:
        return None
    number = whole(found)
    if number is None:
        raise InputError(f"{argument}: found {found!r:.40}; accepted: a whole number")
    if at_least is not None and number < at_least:
        raise InputError(f"{argument}: found {found}; accepted: {at_least} or more")
    return number


def _check_padding(wanted: Lengths) -> None:
    if wanted.pad_token_id is None:
        raise InputError("padding: the vocabulary has no pad_token; set tokenizer.pad_token")
    if wanted.padding == "max_length" and wanted.limit >= UNLIMITED:
        raise InputError(
            "padding: found 'max_length' without a max_length; accepted: with max_length=NUMBER"
        )
    if wanted.padding == "max_length" and not 0 <= wanted.limit <= LONGEST:
        found = f"found {wanted.limit} with padding"
        raise InputError(f"max_length: {found}; accepted: 0 to {LONGEST}")
    multiple = wanted.pad_to_multiple_of
    if multiple and multiple > LONGEST:
        raise InputError(f"pad_to_multiple_of: found {multiple}; accepted: 1 to {LONGEST}")
    if multiple and wanted.truncation != "do_not_truncate" and wanted.limit % multiple:
        raise InputError(
            f"pad_to_multiple_of: found {multiple}; accepted: a divisor of {wanted.limit}, "
            "the length to which rows are truncated"
        )
