"""Context windows: a question combined with each of the overlapping parts of a long context."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer.errors import InputError, RowError

if TYPE_CHECKING:
    import tokenizers

    from trainer.tokenizer import Tokenizer

OUTSIDE = (-1, -1)
"""The offsets of a token without characters of the context; no answer starts or ends there."""


@dataclass(frozen=True)
class Windows:
    """The windows of one row."""

    input_ids: list[list[int]]
    token_type_ids: list[list[int]]
    offsets: list[list[tuple[int, int]]]
    """For each window, the range of each token's characters in the context, or OUTSIDE"""
    words: list[list[tuple[int, int]]]
    """For each window, the range of characters of the whole word that contains each token, or
    OUTSIDE"""

    def token_ranges(self, start: int, end: int) -> list[tuple[int, int] | None]:
        """For each window, the tokens that contain the first and the last character of a range.

        `start` and `end` are indices of characters in the context; `end` is not included. The entry
        of a window that does not contain the whole range is None.
        """
        return [_token_range(offsets, start, end) for offsets in self.offsets]


def windows_of(
    questions: Sequence[str],
    contexts: Sequence[str],
    tokenizer: "Tokenizer",
    max_length: int,
    stride: int,
) -> list[Windows]:
    """The windows of every row, of at most `max_length` tokens each.

    A window repeats the last `stride` context tokens of the previous window. Raises RowError for a
    question that leaves no room in a window, and for an empty context.
    """
    _room_for_context(questions, tokenizer, max_length, stride)
    encoded = tokenizer(
        list(questions),
        list(contexts),
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_token_type_ids=True,
    )
    rows: list[Windows] = [Windows([], [], [], []) for _ in questions]
    samples = encoded["overflow_to_sample_mapping"]
    for sample, encoding in zip(samples, encoded.encodings, strict=True):
        row, context = rows[sample], contexts[sample]
        row.input_ids.append(encoding.ids)
        row.token_type_ids.append(encoding.type_ids)
        offsets = _offsets(encoding, context)
        row.offsets.append(offsets)
        row.words.append(_words(encoding, offsets))
    for number, row in enumerate(rows):
        if all(offset == OUTSIDE for window in row.offsets for offset in window):
            raise RowError(number, "the context has no tokens; every row needs some")
    return rows


def num_window_tokens(
    questions: Sequence[str],
    contexts: Sequence[str],
    tokenizer: "Tokenizer",
    max_length: int,
    stride: int,
) -> int:
    """The number of tokens in the windows of all rows. Raises RowError like `windows_of`.

    The windows are counted without building them, since there may be very many: a long question may
    leave room for only one new context token in each window.
    """
    rooms, found = _room_for_context(questions, tokenizer, max_length, stride), 0
    lengths = map(len, tokenizer(list(contexts), add_special_tokens=False)["input_ids"])
    for room, length in zip(rooms, lengths, strict=True):
        more = max(0, math.ceil((length - room) / (room - stride)))
        found += (1 + more) * (max_length - room) + length + more * stride
    return found


def _room_for_context(
    questions: Sequence[str], tokenizer: "Tokenizer", max_length: int, stride: int
) -> list[int]:
    """The number of context tokens that fit into a window with each question.

    Raises RowError for a question that leaves too little room.
    """
    rooms = []
    special = tokenizer.num_special_tokens_to_add(pair=True)
    if max_length <= special + stride:
        accepted = f"more than {special} special tokens and recipe.stride ({stride})"
        raise InputError(f"recipe.max_length: found {max_length}; accepted: {accepted}")
    for row, ids in enumerate(tokenizer(list(questions), add_special_tokens=False)["input_ids"]):
        room = max_length - special - len(ids)
        if room <= stride:
            found = f"the question's {len(ids)} tokens leave {max(room, 0)} of {max_length}"
            accepted = f"accepted: more than recipe.stride ({stride})"
            raise RowError(row, f"{found} for a window of the context; {accepted}")
        rooms.append(room)
    return rooms


def _offsets(encoding: "tokenizers.Encoding", context: str) -> list[tuple[int, int]]:
    """The range of each token's characters in the context, without white space at its ends."""
    found = []
    for sequence, (start, end) in zip(encoding.sequence_ids, encoding.offsets, strict=True):
        if sequence != 1:  # a token of the question, or a special token
            found.append(OUTSIDE)
            continue
        while start < end and context[start].isspace():
            start += 1
        while end > start and context[end - 1].isspace():
            end -= 1
        found.append((start, end) if start < end else OUTSIDE)
    return found


def _words(
    encoding: "tokenizers.Encoding", offsets: list[tuple[int, int]]
) -> list[tuple[int, int]]:
    found = []
    for word, offset in zip(encoding.word_ids, offsets, strict=True):
        if offset != OUTSIDE and word is not None:
            span = encoding.word_to_chars(word, 1)
            offset = offset if span is None else (min(span[0], offset[0]), max(span[1], offset[1]))
        found.append(offset)
    return found


def _token_range(offsets: list[tuple[int, int]], start: int, end: int) -> tuple[int, int] | None:
    inside = [number for number, offset in enumerate(offsets) if offset != OUTSIDE]
    if not inside or offsets[inside[0]][0] > start or offsets[inside[-1]][1] < end:
        return None
    within = [n for n in inside if offsets[n][1] > start and offsets[n][0] < end]
    return (within[0], within[-1]) if within else None
