"""Text spans: reads annotations in the formats of Doccano, Label Studio, spaCy and Prodigy."""

from collections.abc import Mapping, Sequence
from typing import Any

from trainer.data.tag_schemes import Span
from trainer.errors import AnswerError, RowError
from trainer.foreign.numbers import decimal

STARTS, ENDS = ("start", "start_offset"), ("end", "end_offset")
TYPES = ("label", "type", "entity_group", "tag")
ACCEPTED = "accepted: [start, end, label] or {start, end, label}, in characters of the text"


def text_of(cell: object, row: int, column: str) -> str:
    """The text of a cell: the cell itself, or the text in Label Studio's `data`."""
    if isinstance(cell, Mapping):
        texts = [value for value in cell.values() if isinstance(value, str)]
        cell = cell.get("text", texts[0] if len(texts) == 1 else cell)
    if not isinstance(cell, str):
        found = f"{cell!r:.60} ({type(cell).__name__})"
        raise RowError(row, f"'{column}' is {found}; accepted: text, or a list of words")
    return cell


def read_spans(cell: object, text: str, row: int, column: str) -> list[Span]:
    """The spans of a cell in the order of the text. Raises AnswerError.

    A cell is either Label Studio's `annotations`, of which the first that was not canceled is read,
    or a list of spans in one of these forms:

    - [start, end, label] (Doccano)
    - {start, end, label} (spaCy, Prodigy)
    - {start_offset, end_offset, label} (Doccano's relations)
    - {start, end, labels: [label]} (Label Studio's JSON-MIN)

    A null cell has no spans.
    """
    spans = []
    for found in _entries(cell, row, column):
        span = _span(found)
        if span is None:
            raise AnswerError(row, f"'{column}' holds {found!r:.80}; {ACCEPTED}")
        start, end, _ = span
        if not 0 <= start < end <= len(text):
            inside = f"0 <= start < end <= {len(text)}, the text's length"
            raise AnswerError(row, f"'{column}' holds {found!r:.80}; accepted: {inside}")
        spans.append(span)
    spans.sort()
    for one, other in zip(spans, spans[1:], strict=False):
        if other[0] < one[1]:
            both = f"{text[one[0] : one[1]]!r:.40} and {text[other[0] : other[1]]!r:.40}"
            raise AnswerError(
                row, f"'{column}': the spans {both} overlap; accepted: one label per word"
            )
    return spans


def _entries(cell: object, row: int, column: str) -> Sequence[Any]:
    if cell is None:
        return []
    if not isinstance(cell, Sequence) or isinstance(cell, str):
        raise AnswerError(row, f"'{column}' is {cell!r:.80}; {ACCEPTED}")
    if any(isinstance(each, Mapping) and "result" in each for each in cell):
        return _label_studio_spans(cell, row, column)
    return cell


def _label_studio_spans(annotations: Sequence[Any], row: int, column: str) -> list[Any]:
    """The values of the labels in the first annotation that was not canceled."""
    for each in annotations:
        if not isinstance(each, Mapping) or not isinstance(each.get("result"), list | None):
            accepted = "accepted: annotations of Label Studio, {result: [...]}"
            raise AnswerError(row, f"'{column}' holds {each!r:.80}; {accepted}")
    kept = [each for each in annotations if each.get("result") and not each.get("was_cancelled")]
    return [found["value"] for found in kept[0]["result"] if _is_label(found)] if kept else []


def _is_label(result: object) -> bool:
    """Whether one of Label Studio's results labels a span; others are relations or ratings."""
    value = result.get("value") if isinstance(result, Mapping) else None
    return isinstance(value, Mapping) and "labels" in value


def _span(found: object) -> Span | None:
    """One span, or None if the entry is not a span."""
    if isinstance(found, Mapping):
        values = [_first(found, names) for names in (STARTS, ENDS, TYPES)]
        if values[2] is None and isinstance(found.get("labels"), Sequence):
            names = list(found["labels"])
            values[2] = names[0] if len(names) == 1 else None
    elif isinstance(found, Sequence) and not isinstance(found, str) and len(found) == 3:
        values = list(found)
    else:
        return None
    start, end = _whole(values[0]), _whole(values[1])
    named = isinstance(values[2], str) and values[2].strip()
    return (start, end, values[2]) if start is not None and end is not None and named else None


def _first(found: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((found[name] for name in names if found.get(name) is not None), None)


def _whole(value: object) -> int | None:
    """An integer, which a column of mixed cells may store as text or as a float."""
    if isinstance(value, str):
        return decimal(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
