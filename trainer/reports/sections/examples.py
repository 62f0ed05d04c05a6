"""Examples: shows the samples with the greatest losses, and those with uncertain answers."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from trainer.rendering.figures import measure
from trainer.reports.digest import ABOUT_SAMPLE, Digest, Line
from trainer.reports.marked_text import marked_answer, marked_spans
from trainer.reports.markup import Markup, definitions, element, folded, joined, shortened

LONGEST_TEXT = 600
"""The maximum number of characters of a text to show at first; a click shows more."""
LONGEST_FOLDED = 6000
"""The maximum number of characters of a text to show after a click."""
LONGEST_ANSWER = 400
NOT_SHOWN = (*ABOUT_SAMPLE, "probabilities", "choice_probabilities", "tags", "entities")
OPENED = 5
"""The number of samples of each list that are open at first; the others are collapsed."""


def examples(digest: Digest) -> Markup | str:
    """The two lists of samples, with the input, the answer and the reference of each."""
    lists = {
        "Greatest losses": digest.worst,
        "Least certain": digest.uncertain,
    }
    return joined(_listed(title, lines) for title, lines in lists.items() if lines)


def _listed(title: str, lines: list[Line]) -> Markup:
    shown, rest = lines[:OPENED], lines[OPENED:]
    more = folded(f"{len(rest)} more", *map(example, rest)) if rest else ""
    return joined((element("h3", title), *map(example, shown), more))


def example(line: Line) -> Markup:
    """A sample with its row number, loss, prediction, reference and input."""
    loss = f", loss {measure(line['loss'])}" if line.get("loss") is not None else ""
    head = element("header", f"Row {line.get('row')}{loss}")
    cells = line.get("input")
    marked = marked_spans(line) or marked_answer(line)
    left_out = ("answer", "start", "end", "reference") if marked else ()
    answer = dict(_answer(line, left_out))
    fields = dict(_input(cells)) if isinstance(cells, Mapping) and not marked else {}
    return element("article", head, marked, definitions({**answer, **fields}))


def _answer(line: Line, left_out: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield the names and texts of the predicted values and of the highest probabilities."""
    for key, value in line.items():
        if key not in (*NOT_SHOWN, *left_out):
            yield key, shortened(_text(value), LONGEST_ANSWER)
    shares = line.get("probabilities")
    if isinstance(shares, Mapping) and shares:
        known = [entry for entry in shares.items() if entry[1] is not None]
        best = sorted(known, key=lambda entry: -entry[1])[:3]
        listed = ", ".join(f"{name} {100 * share:.1f} %" for name, share in best)
        yield "probabilities", listed or "not finite"


def _input(cells: Mapping[str, Any]) -> Iterator[tuple[str, Markup]]:
    """Yield the names and texts of the cells of an input row."""
    for name, value in cells.items():
        yield f"input: {name}", long_text(_text(value))


def long_text(text: str) -> Markup:
    """A text; if it is long, only its start is shown at first, and a click shows more."""
    first = element("div", shortened(text, LONGEST_TEXT), class_="text")
    if len(text) <= LONGEST_TEXT:
        return first
    whole = element("div", shortened(text, LONGEST_FOLDED), class_="text")
    return joined((first, folded(f"all {len(text):,} characters", whole)))


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
