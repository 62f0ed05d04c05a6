"""Sources: encodes the source and target texts of encoder-decoders."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainer.tokenizer.tokenizer import Tokenizer


def ids_of_source(tokenizer: "Tokenizer", texts: Sequence[str]) -> list[list[int]]:
    """The ids of each text with its special tokens, which always include the end token."""
    return _with_end(tokenizer, tokenizer(list(texts))["input_ids"])


def ids_of_target(tokenizer: "Tokenizer", texts: Sequence[str]) -> list[list[int]]:
    """The ids of each target text; the language code is that of the tokenizer's `tgt_lang`."""
    return _with_end(tokenizer, tokenizer(text_target=list(texts))["input_ids"])


def num_last(tokenizer: "Tokenizer") -> int:
    """The number of special tokens after a text: the end token, and perhaps a language code."""
    return max(1, len(_last(tokenizer)))


def cut(ids: list[int], limit: int, last: int = 1) -> list[int]:
    """At most `limit` ids: the first ones, and always the `last` ids at the end."""
    return ids if len(ids) <= limit else [*ids[: max(0, limit - last)], *ids[-min(last, limit) :]]


def num_cut(ids: list[int], limit: int) -> int:
    """The number of ids that `cut` leaves out."""
    return max(0, len(ids) - limit)


def _with_end(tokenizer: "Tokenizer", ids: list[list[int]]) -> list[list[int]]:
    end = tokenizer.eos_token_id
    if end is None or end in _last(tokenizer):
        return ids
    return [row if row[-1:] == [end] else [*row, end] for row in ids]


def _last(tokenizer: "Tokenizer") -> list[int]:
    """The ids of the special tokens that the tokenizer adds after a text."""
    row = tokenizer.sample_row()
    ids, mask = row.ids, row.special_tokens_mask
    count = mask[::-1].index(0) if 0 in mask else 0
    return ids[len(ids) - count :]
