"""Marked text: shows the text of a sample with its predicted and reference spans marked."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from trainer.reports.markup import Markup, definitions, element, joined
from trainer.reports.span_errors import Span

LONGEST = 2500
"""The maximum number of characters of a text to show."""


class Marked(NamedTuple):
    """A span of a text with its mark."""

    start: int
    end: int
    label: str
    """The label to show after the span."""
    kind: str
    """The CSS class of the mark: right, wrong or missed."""


def marked_spans(line: Mapping[str, Any]) -> Markup | str:
    """The text of a sample twice, with the predicted entities and with the reference entities."""
    if not isinstance(line.get("reference"), list) or (text := _text_of(line)) is None:
        return ""
    found = [Span.of(each) for each in line["entities"]]
    wanted = [Span.of(each) for each in line["reference"]]
    predicted = [Marked(*s, "right" if s in wanted else "wrong") for s in found]
    reference = [Marked(*s, "right" if s in found else "missed") for s in wanted]
    return definitions(
        {"predicted": marked_text(text, predicted), "reference": marked_text(text, reference)}
    )


def marked_answer(line: Mapping[str, Any]) -> Markup | str:
    """The context of a question with the predicted answer marked, and the accepted answers."""
    cells = line.get("input")
    if not isinstance(cells, Mapping) or not isinstance(line.get("answer"), str):
        return ""
    answers = _accepted_answers(cells)
    context = _context(cells, line, answers)
    if context is None:
        return ""
    right = line["answer"] in answers
    mark = Marked(line["start"], line["end"], "", "right" if right else "wrong")
    others = {k: v for k, v in cells.items() if isinstance(v, str) and v is not context}
    reference = " | ".join(answers) or "none"
    text = marked_text(context, [mark] if line["answer"] else [])
    return definitions(
        {**others, "predicted": line["answer"] or "none", "reference": reference, "text": text}
    )


def marked_text(text: str, marks: Iterable[Marked]) -> Markup:
    """Put marks into a text; a mark that begins inside another mark is left out."""
    parts: list[object] = []
    end = 0
    for mark in sorted(marks):
        if mark.start < end or mark.end > min(len(text), LONGEST):
            continue
        label = element("small", f" {mark.label}") if mark.label else ""
        inner = element("mark", text[mark.start : mark.end], label, class_=mark.kind)
        parts += [text[end : mark.start], inner]
        end = mark.end
    rest = text[end:LONGEST] + "…" * (len(text) > LONGEST)
    return element("div", joined([*parts, rest]), class_="text")


def _text_of(line: Mapping[str, Any]) -> str | None:
    """The input cell from which a line's entities were taken; their positions refer to it.

    If several cells fit (any does if there are no entities), the longest is returned.
    """
    cells = line.get("input")
    if not isinstance(cells, Mapping) or not isinstance(line.get("entities"), list):
        return None
    end = max((each["end"] for each in line["reference"]), default=0)
    texts = (_joined(value) for value in cells.values())
    return _longest(
        text
        for text in texts
        if text is not None
        and len(text) >= end
        and all(_fits(each, text) for each in line["entities"])
    )


def _joined(value: object) -> str | None:
    """Return a text unchanged, join a list of words with spaces, and return None otherwise."""
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return " ".join(value)
    return value if isinstance(value, str) else None


def _longest(texts: Iterable[str]) -> str | None:
    return max(texts, key=len, default=None)


def _fits(entity: Mapping[str, Any], text: str) -> bool:
    return text[entity["start"] : entity["end"]] == entity.get("text")


def _context(
    cells: Mapping[str, Any], line: Mapping[str, Any], answers: Sequence[str]
) -> str | None:
    """The input cell that contains the predicted answer at its position.

    Several cells may fit; an empty answer fits all of them. Then the longest of the cells that
    contain all accepted answers is returned, or if there are none, the longest of all that fit.
    """
    texts = [each for each in cells.values() if isinstance(each, str)]
    fitting = [each for each in texts if each.startswith(line["answer"], line["start"])]
    known = [each for each in fitting if all(answer in each for answer in answers)]
    return _longest(known or fitting)


def _accepted_answers(cells: Mapping[str, Any]) -> list[str]:
    """The accepted answers in an input in the format of SQuAD."""
    for value in cells.values():
        if isinstance(value, Mapping) and isinstance(value.get("text"), list):
            return [str(each) for each in value["text"]]
    return []
