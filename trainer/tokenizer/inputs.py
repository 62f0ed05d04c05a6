"""Inputs: checks a caller's texts, and converts them to the form that the backend needs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.errors import InputError, RowError

Text = str | Sequence[str]
"""A text, or the list of its words if it is already split."""
MAX_CHARACTERS = 1 << 26
"""The maximum number of characters in one text."""
LISTS = (list, tuple, np.ndarray)


@dataclass(frozen=True)
class Inputs:
    """Texts, or pairs of texts, in the form that the backend needs."""

    texts: list[Text]
    pairs: list[Text] | None
    split: bool
    """Whether each text is a list of words."""
    single: bool
    """Whether the caller passed a single text instead of a list."""

    def rows(self) -> list[Any]:
        """The inputs for the backend: texts, or pairs (text, second text)."""
        if self.pairs is None:
            return self.texts
        return list(zip(self.texts, self.pairs, strict=True))


def read_inputs(text: object, text_pair: object, split: bool) -> Inputs:
    """Read one text or several; each is a string, or with `split` a list of words.

    A list of lists with two elements is a list of pairs. For a single text, an empty second text is
    ignored, as in `transformers`. Raises RowError for the first row that is not a text.
    """
    if split:
        return _split_inputs(text, text_pair)
    single = isinstance(text, str)
    if text_pair is None and not single:
        rows = _listed("text", text)
        if rows and isinstance(rows[0], LISTS):
            return Inputs(*_unzipped(rows), split=False, single=False)
        return Inputs(_texts("text", rows), None, split=False, single=False)
    if single and text_pair == "":
        text_pair = None
    if text_pair is not None and single != isinstance(text_pair, str):
        shapes = "a string for one text and a list of strings for a list"
        raise InputError(f"text_pair: found {type(text_pair).__name__}; accepted: {shapes}")
    texts = [text] if single else _listed("text", text)
    pairs = [text_pair] if single and text_pair is not None else text_pair
    return Inputs(_texts("text", texts), _pairs(texts, pairs, _texts), split=False, single=single)


def refuse_too_long(inputs: Inputs) -> None:
    """Raise RowError for a text that is too long, since signals cannot interrupt native code."""
    for texts in (inputs.texts, inputs.pairs or ()):
        for row, text in enumerate(texts):
            length = len(text) if isinstance(text, str) else sum(map(len, text))
            if length > MAX_CHARACTERS:
                accepted = f"accepted: at most {MAX_CHARACTERS:,}; split it"
                raise RowError(row, f"text: found {length:,} characters; {accepted}")


def _split_inputs(text: object, text_pair: object) -> Inputs:
    """Read texts that are lists of words, as `read_inputs` documents."""
    rows = _listed("text", text)
    single = not (rows and isinstance(rows[0], LISTS))
    if not single and text_pair is None and len(rows[0]) and isinstance(rows[0][0], LISTS):
        return _split_pairs(rows)
    if single:
        rows = [rows]
        words = [] if text_pair is None else _listed("text_pair", text_pair)
        text_pair = [words] if words else None
    return Inputs(_words("text", rows), _pairs(rows, text_pair, _words), split=True, single=single)


def _split_pairs(rows: list[Any]) -> Inputs:
    """Read a list of pairs whose texts are lists of words."""
    for row, pair in enumerate(rows):
        if not isinstance(pair, LISTS) or len(pair) != 2:
            accepted = "a pair of lists of words as the first row is"
            raise RowError(row, f"text[{row}]: found {pair!r:.40}; accepted: {accepted}")
    firsts, seconds = ([pair[index] for pair in rows] for index in (0, 1))
    return Inputs(_words("text", firsts), _words("text", seconds), split=True, single=False)


def _pairs(texts: list[Any], given: Any, check: Any) -> list[Text] | None:
    if given is None:
        return None
    pairs = check("text_pair", _listed("text_pair", given))
    if len(pairs) != len(texts):
        raise InputError(f"text_pair: found {len(pairs)} texts for the {len(texts)} of text")
    return pairs


def _listed(argument: str, given: object) -> list[Any]:
    if isinstance(given, (str, bytes, dict)) or not isinstance(given, Iterable):
        found = type(given).__name__
        accepted = "a string or a list of strings (of lists of words with is_split_into_words)"
        raise InputError(f"{argument}: found {found}; accepted: {accepted}")
    return list(given)


def _texts(argument: str, rows: list[Any]) -> list[Text]:
    for row, text in enumerate(rows):
        if not isinstance(text, str):
            raise _no_text(row, f"{argument}[{row}]", text)
    return rows


def _words(argument: str, rows: list[Any]) -> list[Text]:
    texts: list[Text] = []
    for row, words in enumerate(rows):
        if not isinstance(words, LISTS):
            found = f"{words!r:.40} ({type(words).__name__})"
            raise RowError(row, f"{argument}[{row}]: found {found}; accepted: a list of words")
        for index, word in enumerate(words):
            if not isinstance(word, str):
                raise _no_text(row, f"{argument}[{row}][{index}]", word)
        texts.append([str(word) for word in words] if isinstance(words, np.ndarray) else words)
    return texts


def _unzipped(rows: list[Any]) -> tuple[list[Text], list[Text]]:
    """The first and the second texts of a list of pairs."""
    for row, pair in enumerate(rows):
        if not isinstance(pair, LISTS) or len(pair) != 2:
            accepted = "a pair of strings as the first row is (words: is_split_into_words=True)"
            raise RowError(row, f"text[{row}]: found {pair!r:.40}; accepted: {accepted}")
        for text in pair:
            if not isinstance(text, str):
                raise _no_text(row, f"text[{row}]", text)
    return [first for first, _ in rows], [second for _, second in rows]


def _no_text(row: int, where: str, found: object) -> RowError:
    kind = type(found).__name__
    return RowError(row, f"{where}: found {found!r:.40} ({kind}); accepted: a string")


def surrogate_error(inputs: Inputs) -> InputError:
    """The error for a string with a lone surrogate; the backend rejects no other strings."""
    for argument, rows in (("text", inputs.texts), ("text_pair", inputs.pairs or [])):
        for row, text in enumerate(rows):
            try:
                "".join(text).encode()
            except UnicodeEncodeError as error:
                return RowError(row, f"{argument}[{row}]: {error}; accepted: valid Unicode")
    raise AssertionError("the tokenizer refused valid strings")
