"""Entity scores: precision, recall and F1 of spans, which must match in position and type."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from trainer.errors import InputError
from trainer.metrics.metric import Metric

if TYPE_CHECKING:
    from trainer.tasks.comparison import Compared

AVERAGES = ("micro", "macro", "weighted")


@dataclass(frozen=True)
class Counts:
    """The numbers of spans of a type that match, were predicted, and are in the references."""

    correct: int
    predicted: int
    wanted: int

    @property
    def precision(self) -> float:
        """The share of predicted spans that match; 0 if there are none, as in seqeval."""
        return self.correct / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        """The share of reference spans that match; 0 if there are none, as in seqeval."""
        return self.correct / self.wanted if self.wanted else 0.0

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall."""
        total = self.predicted + self.wanted
        return 2 * self.correct / total if total else 0.0


def entity_counts(predictions: "Compared", references: "Compared") -> dict[str, Counts]:
    """The counts by type, sorted. Both arguments have a list of (start, end, type) for each text.

    A predicted span is correct if the references have one with the same start, end and type: as in
    seqeval (its default mode), and in the strict scheme of nervaluate (SemEval-2013, task 9).
    """
    correct: Counter[str] = Counter()
    predicted: Counter[str] = Counter()
    wanted: Counter[str] = Counter()
    for predicted_spans, reference_spans in zip(predictions, references, strict=True):
        found, accepted = set(map(tuple, predicted_spans)), set(map(tuple, reference_spans))
        correct.update(span[2] for span in found & accepted)
        predicted.update(span[2] for span in found)
        wanted.update(span[2] for span in accepted)
    types = sorted(predicted | wanted)
    return {kind: Counts(correct[kind], predicted[kind], wanted[kind]) for kind in types}


@dataclass(frozen=True)
class _OfEntities(Metric):
    """A score averaged over the types of entities, or the score of a single type."""

    average: str = "micro"
    """micro (over all entities), macro (mean over types), or weighted (mean weighted by
    support)."""
    type: str | None = None
    """The type to score; null: score all types."""

    kinds: ClassVar[tuple[str, ...]] = ("spans",)
    greater_is_better = True
    name: ClassVar[str] = ""

    def __post_init__(self) -> None:
        if self.average not in AVERAGES:
            accepted = ", ".join(AVERAGES)
            found = f"found average '{self.average}'"
            raise InputError(f"metrics: {self.name}: {found}; accepted: average: {accepted}")

    def names(self) -> tuple[str, ...]:
        if self.type is not None:
            return (f"{self.name}_{self.type}",)
        return (self.name if self.average == "micro" else f"{self.name}_{self.average}",)

    def compute(self, predictions: "Compared", references: "Compared") -> dict[str, float]:
        """Return the score; nan if there are no spans."""
        by_type = entity_counts(predictions, references)
        if self.type is not None:
            by_type = {kind: found for kind, found in by_type.items() if kind == self.type}
        counts = list(by_type.values())
        value = self._averaged(counts) if counts else math.nan
        return dict.fromkeys(self.names(), value)

    def _averaged(self, counts: Sequence[Counts]) -> float:
        if self.average == "micro":
            sums = (sum(getattr(each, name) for each in counts) for name in COUNTED)
            return self._value(Counts(*sums))
        weights = [each.wanted if self.average == "weighted" else 1 for each in counts]
        values = [self._value(each) * weight for each, weight in zip(counts, weights, strict=True)]
        return sum(values) / sum(weights) if sum(weights) else 0.0

    def _value(self, counts: Counts) -> float:
        return getattr(counts, self.name.removeprefix("entity_"))


COUNTED = ("correct", "predicted", "wanted")


@dataclass(frozen=True)
class EntityPrecision(_OfEntities):
    """Share of the predicted entities whose position and type match a reference."""

    name = "entity_precision"


@dataclass(frozen=True)
class EntityRecall(_OfEntities):
    """Share of the reference entities that were predicted with this position and type."""

    name = "entity_recall"


@dataclass(frozen=True)
class EntityF1(_OfEntities):
    """Harmonic mean of entity precision and recall."""

    name = "entity_f1"


def entity_report(predictions: "Compared", references: "Compared") -> list[dict[str, object]]:
    """Precision, recall, F1 and support of each type, as JSON values."""
    return [
        {
            "label": kind,
            "precision": found.precision,
            "recall": found.recall,
            "f1": found.f1,
            "support": found.wanted,
        }
        for kind, found in entity_counts(predictions, references).items()
    ]
