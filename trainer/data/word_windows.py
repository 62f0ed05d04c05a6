"""Word windows: tokenizes the words of rows, and splits long rows into overlapping windows."""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from trainer.errors import InputError

if TYPE_CHECKING:
    import tokenizers

    from trainer.tokenizer import Tokenizer

IGNORED = -100
"""The label of a token without a target."""
Window = tuple[int, int]
"""(start, end) of a range of pieces, without special tokens; the end is exclusive."""


@dataclass(frozen=True)
class EncodedWords:
    """A row of W words as P pieces (the tokens of words), between special tokens."""

    encoding: "tokenizers.Encoding"
    """The encoding of the whole row by the library `tokenizers`"""
    before: int
    """The number of special tokens before the first piece"""
    pieces: int
    """P"""
    firsts: list[int]
    """[W], the index of each word's first piece, ascending"""
    starts: list[int]
    """[W], the index of each word's first character in the row's text"""
    ends: list[int]
    """[W], the index of the character after each word"""

    def places(self, window: Window) -> list[int]:
        """The indices, in the encoding, of a window's tokens, including special tokens."""
        first, last = self.before + window[0], self.before + window[1]
        after = self.before + self.pieces
        return [*range(self.before), *range(first, last), *range(after, len(self.encoding.ids))]

    @property
    def special(self) -> int:
        """The number of special tokens in every window."""
        return len(self.encoding.ids) - self.pieces


def encode_words(rows: Sequence[str | Sequence[str]], tokenizer: "Tokenizer") -> list[EncodedWords]:
    """Encode rows, which are lists of words, or texts that the tokenizer splits into words.

    For lists of words, offsets refer to the words joined by single spaces. A word without a piece
    (such as a control character) is left out.
    """
    if not rows:
        return []
    split = not isinstance(rows[0], str)
    encodings = tokenizer(
        [list(row) if split else row for row in rows],
        is_split_into_words=split,
        truncation=False,
        return_offsets_mapping=True,
    ).encodings
    assert encodings is not None
    return [_words(row, found) for row, found in zip(rows, encodings, strict=True)]


def _words(row: str | Sequence[str], encoding: "tokenizers.Encoding") -> EncodedWords:
    mask, word_ids = encoding.special_tokens_mask, encoding.word_ids
    inner = [place for place, special in enumerate(mask) if not special]
    before = inner[0] if inner else len(mask)
    pieces = inner[-1] + 1 - before if inner else 0
    groups: dict[int, list[int]] = {}
    for place in range(before, before + pieces):
        if (word := word_ids[place]) is not None:
            groups.setdefault(word, []).append(place)
    spans = given_words(row) if not isinstance(row, str) else None
    firsts, starts, ends = [], [], []
    for word, places in groups.items():
        span = spans[word] if spans is not None else _stripped(row, encoding.offsets, places)
        if span is not None:
            firsts.append(places[0] - before)
            starts.append(span[0])
            ends.append(span[1])
    return EncodedWords(encoding, before, pieces, firsts, starts, ends)


def given_words(words: Sequence[str]) -> list[tuple[int, int]]:
    """The range of each word's characters in the text of the words joined by spaces."""
    found, start = [], 0
    for word in words:
        found.append((start, start + len(word)))
        start += len(word) + 1
    return found


def _stripped(
    text: str | Sequence[str], offsets: Sequence[tuple[int, int]], places: Sequence[int]
) -> tuple[int, int] | None:
    """The range of a word's characters without white space at its ends; None if nothing is left."""
    assert isinstance(text, str)
    start, end = offsets[places[0]][0], offsets[places[-1]][1]
    word = text[start:end]
    inner = word.strip()
    if not inner:
        return None
    start += len(word) - len(word.lstrip())
    return start, start + len(inner)


def windows_of(words: EncodedWords, max_length: int, stride: int) -> list[Window]:
    """Windows of at most `max_length` tokens, including special tokens, that do not split words.

    Neighboring windows share at most `stride` pieces. If a word is longer than a window, its
    remaining pieces are dropped. Raises InputError if a window has no room for pieces.
    """
    room = max_length - words.special
    if room < 1 or (words.pieces > room and stride >= room):
        special = f"{words.special} of which are special"
        if room < 1:
            accepted = f"at least {words.special + 1}"
            raise InputError(
                f"recipe.max_length: found {max_length} tokens, {special}; accepted: {accepted}"
            )
        raise InputError(
            f"recipe.stride: found {stride} in windows of {max_length} tokens, {special}; "
            f"accepted: less than {room}"
        )
    if words.pieces <= room:
        return [(0, words.pieces)]
    bounds = sorted({0, *words.firsts, words.pieces})
    found, start = [], 0
    while start < words.pieces:
        end = bounds[bisect_right(bounds, start + room) - 1]
        following = bounds[bisect_right(bounds, start)]
        if end == start:  # a word that is longer than a window
            found.append((start, start + room))
            start = following
            continue
        found.append((start, end))
        shared = bounds[bisect_left(bounds, end - stride)]
        start = end if end == words.pieces else max(shared, following)
    return found


def deciding_windows(words: EncodedWords, windows: Sequence[Window]) -> list[int]:
    """[W], ascending: the window in which each word is trained on, evaluated and predicted.

    It is the window in which the word has the most context. The context is the smaller of the
    numbers of pieces before and after the word's first piece; a side on which the row itself ends
    does not count. Of windows with equal context, the first one is chosen.
    """
    last = words.pieces

    def context(window: Window, piece: int) -> float:
        before = piece - window[0] if window[0] else last
        after = window[1] - 1 - piece if window[1] < last else last
        return min(before, after)

    found, low = [], 0
    for piece in words.firsts:
        while windows[low][1] <= piece:
            low += 1
        high = low
        while high + 1 < len(windows) and windows[high + 1][0] <= piece:
            high += 1
        candidates = range(low, high + 1)
        found.append(max(candidates, key=lambda number: context(windows[number], piece)))
    return found


def token_columns(
    words: EncodedWords, windows: Sequence[Window], decided: Sequence[int]
) -> dict[str, Any]:
    """The features of a row: a list for each window, and the number of dropped pieces.

    `starts` and `ends` hold the range of a word's characters at the word's first piece in its
    deciding window (`decided`), and -1 at all other tokens.
    """
    encoding = words.encoding
    places = [words.places(window) for window in windows]
    return {
        "input_ids": [[encoding.ids[place] for place in found] for found in places],
        "token_type_ids": [[encoding.type_ids[place] for place in found] for found in places],
        "starts": _at_first_pieces(words, windows, decided, words.starts, -1),
        "ends": _at_first_pieces(words, windows, decided, words.ends, -1),
        "num_truncated_tokens": lost_pieces(words, windows),
    }


def token_labels(
    words: EncodedWords,
    windows: Sequence[Window],
    decided: Sequence[int],
    ids: Sequence[int],
    continued: Mapping[int, int] | None = None,
) -> list[list[int]]:
    """Each window's labels: a word's label in its deciding window, and -100 at other tokens.

    `continued` maps the label of a word's first piece to the label of its other pieces; with None,
    the other pieces have no label.
    """
    found = _at_first_pieces(words, windows, decided, ids, IGNORED)
    if continued is None:
        return found
    for word, (first, label) in enumerate(zip(words.firsts, ids, strict=True)):
        window = windows[decided[word]]
        following = words.firsts[word + 1] if word + 1 < len(words.firsts) else words.pieces
        for piece in range(first + 1, min(following, window[1])):
            found[decided[word]][words.before + piece - window[0]] = continued[label]
    return found


def _at_first_pieces(
    words: EncodedWords,
    windows: Sequence[Window],
    decided: Sequence[int],
    values: Sequence[int],
    elsewhere: int,
) -> list[list[int]]:
    found = [[elsewhere] * (end - start + words.special) for start, end in windows]
    for first, number, value in zip(words.firsts, decided, values, strict=True):
        found[number][words.before + first - windows[number][0]] = value
    return found


def lost_pieces(words: EncodedWords, windows: Sequence[Window]) -> int:
    """The number of pieces that are in no window."""
    gaps = sum(max(0, later[0] - earlier[1]) for earlier, later in pairwise(windows))
    return gaps + words.pieces - windows[-1][1]
