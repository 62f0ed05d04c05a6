"""Answers in a text: reads the answers of a table cell, and finds them in the context."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from trainer.errors import AnswerError

FORMS = 'accepted: {"text": [...], "answer_start": [...]}, or a list of {"text", "answer_start"}'


class Answer(NamedTuple):
    """An answer, a substring of its context."""

    text: str
    start: int
    """The index of its first character in the context."""

    @property
    def end(self) -> int:
        """The index after its last character."""
        return self.start + len(self.text)


def answers_of(cell: object, context: str, row: int, column: str) -> list[Answer]:
    """The answers of a cell, each checked against the context. An empty cell has none.

    A cell is `{"text": [...], "answer_start": [...]}`, the same with one text and one number, a
    list of `{"text", "answer_start"}`, null, or one of these as JSON text (in csv files). An answer
    without a start must occur exactly once in the context. Raises AnswerError.
    """
    return [
        _located(text, start, context, row, column) for text, start in _pairs(cell, row, column)
    ]


def has_no_answer(cell: object) -> bool:
    """Whether a cell has no answers; false for a cell that cannot be read."""
    try:
        return not _pairs(cell, 0, "")
    except AnswerError:
        return False


def _pairs(cell: object, row: int, column: str) -> list[tuple[Any, Any]]:
    if isinstance(cell, str):
        try:
            cell = json.loads(cell) if cell.strip() else None
        except (ValueError, RecursionError):
            raise AnswerError(row, f"'{column}' is {cell!r:.60}; {FORMS}, as JSON") from None
    if cell is None:
        return []
    if isinstance(cell, Mapping):
        texts, starts = cell.get("text"), cell.get("answer_start")
        texts = [] if texts is None else texts
        if isinstance(texts, str):
            return [(texts, starts)]
        if not isinstance(texts, Sequence):
            raise AnswerError(row, f"'{column}' is {cell!r:.60}; {FORMS}")
        starts = [None] * len(texts) if starts is None else starts
        if not isinstance(starts, Sequence) or len(starts) != len(texts):
            raise AnswerError(
                row, f"'{column}' has {len(texts)} texts but starts that do not match; {FORMS}"
            )
        return list(zip(texts, starts, strict=True))
    if isinstance(cell, Sequence) and all(isinstance(each, Mapping) for each in cell):
        return [(each.get("text"), each.get("answer_start")) for each in cell]
    raise AnswerError(row, f"'{column}' is {cell!r:.60}; {FORMS}")


def _located(text: object, start: object, context: str, row: int, column: str) -> Answer:
    if not isinstance(text, str) or not text.strip():
        raise AnswerError(row, f"'{column}': found {text!r:.60} as an answer; accepted: a text")
    if start is None:
        return Answer(text, _only_occurrence(text, context, row, column))
    if isinstance(start, bool) or not isinstance(start, int):
        raise AnswerError(row, f"'{column}': answer_start is {start!r:.30}; accepted: a number")
    if start >= 0 and context.startswith(text, start):
        return Answer(text, start)
    actual = context.find(text)
    if actual < 0:
        raise AnswerError(row, f"'{column}': {text!r:.60} is not in the context")
    there = context[max(start, 0) : max(start, 0) + len(text)]
    found = f"answer_start {start} has {there!r:.40}, not {text!r:.40}"
    raise AnswerError(row, f"'{column}': {found}, which is at {actual}")


def _only_occurrence(text: str, context: str, row: int, column: str) -> int:
    count = context.count(text)
    if count == 1:
        return context.index(text)
    found = f"{text!r:.60} is in the context {count} times" if count else f"{text!r:.60} is not in"
    rest = "; accepted: an answer with its answer_start" if count else " the context"
    raise AnswerError(row, f"'{column}': {found}{rest}")
