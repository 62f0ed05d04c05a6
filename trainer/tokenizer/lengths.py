"""Lengths: how a call truncates and pads, checked and told to the backend."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tokenizers

from trainer.errors import InputError, nearest
from trainer.tokenizer.vocabulary import Vocabulary

TRUNCATIONS = ("longest_first", "only_first", "only_second", "do_not_truncate")
PADDINGS = ("longest", "max_length", "do_not_pad")
SIDES = ("left", "right")
UNLIMITED = int(1e30)
"""The `model_max_length` of a tokenizer whose files name none, as on the hub."""


@dataclass(frozen=True)
class Lengths:
    """What makes the rows of one call as long as they are."""

    truncation: str
    padding: str
    limit: int
    """What rows are cut to, and padded to where `padding` is max_length."""
    stride: int
    """Tokens that a part of a long text repeats from the part before it."""
    pad_to_multiple_of: int | None
    padding_side: str
    truncation_side: str
    pad_token: str | None
    pad_token_id: int | None

    def configure(self, backend: tokenizers.Tokenizer, special: int) -> None:
        """Have the backend cut and pad so; `special` tokens of each row are special ones."""
        if self.truncation == "do_not_truncate":
            backend.no_truncation()
        else:
            self._check_room(special)
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
                length=self.limit if self.padding == "max_length" else None,
                pad_to_multiple_of=self.pad_to_multiple_of,
            )

    def _check_room(self, special: int) -> None:
        # The backend would not cut at all where the special tokens alone are too many.
        if self.limit < max(1, special):
            raise InputError(
                f"max_length: found {self.limit}; accepted: {max(1, special)} or more, "
                f"of which {special} are special tokens"
            )
        if self.stride and self.stride >= self.limit - special:
            accepted = f"less than the {self.limit - special} tokens of a part"
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
    """The arguments of a call under their hub's names, with the tokenizer's own for what is open.

    Raises InputError for what is not accepted, and for what contradicts itself.
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
    accept_number("max_length", max_length, at_least=None)
    accept_number("stride", stride, at_least=0)
    accept_number("pad_to_multiple_of", pad_to_multiple_of, at_least=1)
    found = Lengths(
        truncation="do_not_truncate" if _unlimited(vocabulary, max_length) else truncation,
        padding=padding,
        limit=vocabulary.model_max_length if max_length is None else max_length,
        stride=stride,
        pad_to_multiple_of=pad_to_multiple_of,
        padding_side=padding_side or vocabulary.padding_side,
        truncation_side=vocabulary.truncation_side,
        pad_token=vocabulary.pad_token,
        pad_token_id=vocabulary.pad_token_id,
    )
    if padding != "do_not_pad":
        _check_padding(found)
    return found


def accept(argument: str, found: Any, accepted: Sequence[str]) -> None:
    """Raises InputError where `found` is not one of the accepted words."""
    if found not in accepted:
        hint = nearest(str(found), accepted)
        raise InputError(f"{argument}: found {found!r}; accepted: {', '.join(accepted)}{hint}")


def accept_number(argument: str, found: Any, at_least: int | None) -> None:
    """Raises InputError where `found` is no whole number or too small a one; None is left open."""
    if found is None:
        return
    if not isinstance(found, int) or isinstance(found, bool):
        raise InputError(f"{argument}: found {found!r:.40}; accepted: a whole number")
    if at_least is not None and found < at_least:
        raise InputError(f"{argument}: found {found}; accepted: {at_least} or more")


def _unlimited(vocabulary: Vocabulary, max_length: int | None) -> bool:
    return max_length is None and vocabulary.model_max_length >= UNLIMITED


def _check_padding(wanted: Lengths) -> None:
    if wanted.pad_token_id is None:
        raise InputError("padding: the vocabulary has no pad_token; set tokenizer.pad_token")
    if wanted.padding == "max_length" and wanted.limit >= UNLIMITED:
        raise InputError("padding: 'max_length' without max_length, and the files name none")
    multiple = wanted.pad_to_multiple_of
    if multiple and wanted.truncation != "do_not_truncate" and wanted.limit % multiple:
        raise InputError(
            f"pad_to_multiple_of: found {multiple}; accepted: what divides the {wanted.limit} "
            "tokens that rows are cut to"
        )
