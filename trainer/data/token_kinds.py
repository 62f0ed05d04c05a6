"""Token kinds: determines which tokens are special, and which begin a word."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trainer.data.masking import BEGINS, CONTINUES, SPECIAL

if TYPE_CHECKING:
    import tokenizers


def kinds_of(encodings: Sequence[Any]) -> list[list[int]]:
    """For each token of each encoding (of the tokenizers library): SPECIAL, BEGINS or CONTINUES."""
    return [_kinds(encoding) for encoding in encodings]


def _kinds(encoding: "tokenizers.Encoding") -> list[int]:
    found, before = [], None
    for special, word in zip(encoding.special_tokens_mask, encoding.word_ids, strict=True):
        if special:
            found.append(SPECIAL)
        else:
            found.append(CONTINUES if word is not None and word == before else BEGINS)
        before = word
    return found
