"""Answers: formats rows with a model's predictions as readable lines for a terminal."""

import json
from collections.abc import Mapping, Sequence

from rich.text import Text

from trainer.rendering.layout import labelled

SHOWN_NUMBERS = 4
"""The number of entries of a vector to show."""
SHOWN_SHARES = 5
"""The number of most probable classes whose probabilities are shown."""


def answer_lines(row: Mapping[str, object], width: int | None = None) -> Text:
    """A line for each cell of a row, `name  value`, with an empty line at the end.

    Long vectors and lists of probabilities are shortened. `width` is that of the terminal.
    """
    lines = {name: _words(value) for name, value in row.items() if value is not None}
    return labelled(lines, width).append("\n")


def _words(value: object) -> str:
    """A cell as text."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, Mapping):
        return _shares(value) if _are_numbers(list(value.values())) else _json(value)
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return _list(value)
    return _json(value)


def _list(values: Sequence[object]) -> str:
    """A vector, texts separated by commas, or a line for each span, candidate or message."""
    if _are_numbers(values) and len(values) > SHOWN_NUMBERS:
        first = ", ".join(_words(each) for each in values[:SHOWN_NUMBERS])
        return f"{first}, ... ({len(values):,} numbers)"
    if any(isinstance(each, Mapping) for each in values):
        return "\n".join(_entry(each) for each in values)
    return ", ".join(_words(each) for each in values) or "none"


def _entry(value: object) -> str:
    """A span or a candidate, such as `New York  LOC  0.9831  [10:18]`; texts come first."""
    if not isinstance(value, Mapping):
        return _words(value)
    cells = {name: cell for name, cell in value.items() if name not in ("start", "end")}
    texts = [_words(cell) for cell in cells.values() if isinstance(cell, str)]
    others = [_words(cell) for cell in cells.values() if not isinstance(cell, str)]
    span = [f"[{value['start']}:{value['end']}]"] if {"start", "end"} <= value.keys() else []
    return "  ".join([*texts, *others, *span])


def _shares(shares: Mapping[object, object]) -> str:
    """The largest entries of {class: probability}, in descending order."""
    ranked = sorted(shares.items(), key=lambda share: -float(str(share[1])))
    shown = ", ".join(f"{name} {_words(share)}" for name, share in ranked[:SHOWN_SHARES])
    left = len(ranked) - SHOWN_SHARES
    return f"{shown}, and {left:,} more" if left > 0 else shown


def _are_numbers(values: Sequence[object]) -> bool:
    numbers = [isinstance(each, (int, float)) and not isinstance(each, bool) for each in values]
    return bool(numbers) and all(numbers)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
