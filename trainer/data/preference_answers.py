"""Preference answers: reads and checks the margins of pairs and the labels of completions."""

from collections.abc import Mapping, Sequence
from typing import Any

from trainer.data.labels import as_number
from trainer.data.rows import label_column
from trainer.errors import AnswerError

GOOD, BAD, MISMATCHED = ROLES = ("good", "bad", "mismatched")
"""The roles of single completions; a mismatched completion belongs to another row's prompt."""


def margins_of(rows: Mapping[str, Sequence[Any]], number: int) -> list[float]:
    """The margin of each of `number` pairs, 0 if a pair has none. Raises AnswerError.

    The margin says by how much the chosen completion is better than the rejected one.
    """
    found = []
    for row, cell in enumerate(rows.get("margin") or [None] * number):
        margin = 0.0 if cell is None else as_number(cell)
        if margin is None:
            raise AnswerError(row, f"'margin' is {cell!r:.60}; accepted: a number, or null")
        found.append(float(margin))
    return found


def are_good(rows: Mapping[str, Sequence[Any]]) -> list[bool]:
    """Whether each row's completion is good, from the column `label`. Raises AnswerError."""
    labels = label_column(rows, "label", "recipe")
    for row, label in enumerate(labels):
        if label not in (True, False):
            found = f"'label' is {label!r:.60}"
            raise AnswerError(row, f"{found}; accepted: true, false, 1, 0")
    return list(map(bool, labels))
