"""SpanErrors: counts the differences between predicted and reference spans."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

KINDS = {
    "correct": "same position and type",
    "type": "same position, different type",
    "boundaries": "overlapping position, same type",
    "type and boundaries": "overlapping position, different type",
    "missed": "no prediction overlaps the reference",
    "spurious": "the prediction overlaps no reference",
}
"""Kind of error -> its definition."""
MOST_EXAMPLES = 8
"""The maximum number of kept examples for each kind of error."""


class Span(NamedTuple):
    """A span of a text with its type."""

    start: int
    end: int
    label: str

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Self:
        """The span of an entity from predictions.jsonl."""
        return cls(int(entry["start"]), int(entry["end"]), str(entry["label"]))

    def overlaps(self, other: "Span") -> bool:
        """Whether the two spans have a character in common."""
        return self.start < other.end and other.start < self.end


@dataclass
class SpanErrors:
    """The numbers of errors by type of span and kind of error, and examples of each kind."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    """Type of the reference span (for spurious spans, of the prediction) -> kind -> count."""
    examples: dict[str, list[Mapping[str, Any]]] = field(default_factory=dict)
    """Kind of error -> the first lines of predictions.jsonl with such an error."""
    confused: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(reference type, predicted type) -> number of spans with this wrong type."""

    def add(self, line: Mapping[str, Any], found: Sequence[Span], wanted: Sequence[Span]) -> None:
        """Count the predicted spans `found` and the reference spans `wanted` of a sample."""
        seen: set[str] = set()
        for span in wanted:
            kind, other = _kind(span, found)
            self._count(span.label, kind, seen)
            if other is not None and other.label != span.label:
                self.confused[span.label, other.label] += 1
        for span in found:
            if not any(span.overlaps(each) for each in wanted):
                self._count(span.label, "spurious", seen)
        for kind in seen - {"correct"}:
            kept = self.examples.setdefault(kind, [])
            if len(kept) < MOST_EXAMPLES:
                kept.append(line)

    def _count(self, label: str, kind: str, seen: set[str]) -> None:
        self.counts.setdefault(label, Counter())[kind] += 1
        seen.add(kind)


def _kind(wanted: Span, found: Sequence[Span]) -> tuple[str, Span | None]:
    """The kind of error for a reference span, and the predicted span that was matched with it."""
    near = [span for span in found if span.overlaps(wanted)]
    if wanted in near:
        return "correct", wanted
    for span in near:
        if (span.start, span.end) == (wanted.start, wanted.end):
            return "type", span
    for span in near:
        if span.label == wanted.label:
            return "boundaries", span
    return ("type and boundaries", near[0]) if near else ("missed", None)
