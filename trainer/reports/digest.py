"""Digest: statistics and examples of an evaluation set's predictions, collected in one pass."""

import heapq
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainer.reports.span_errors import Span, SpanErrors

Line = Mapping[str, Any]
"""A line of predictions.jsonl."""
NUM_BINS = 10
"""The number of bins for probabilities."""
NUM_WORST = 15
"""The number of samples with the greatest losses to keep."""
NUM_UNCERTAIN = 10
"""The number of samples with the least certain answers to keep."""
ABOUT_SAMPLE = ("row", "loss", "input", "task")
"""The keys of a line that describe the sample; all other keys belong to the answer."""


@dataclass
class ClassCounts:
    """Counts of predictions and references by class."""

    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(reference, prediction) -> number of samples; empty if samples may have several classes."""
    hits: Counter[str] = field(default_factory=Counter)
    """Class -> number of correct predictions."""
    predicted: Counter[str] = field(default_factory=Counter)
    """Class -> number of predictions."""
    wanted: Counter[str] = field(default_factory=Counter)
    """Class -> number of references."""

    def add(self, found: Sequence[str], wanted: Sequence[str]) -> None:
        """Count the predicted and the reference classes of a sample."""
        self.predicted.update(found)
        self.wanted.update(wanted)
        self.hits.update(set(found) & set(wanted))


@dataclass
class CalibrationBins:
    """Predicted probabilities and the correctness of the answers, in bins of equal width."""

    counts: list[int] = field(default_factory=lambda: [0] * NUM_BINS)
    """The number of probabilities in each bin."""
    sums: list[float] = field(default_factory=lambda: [0.0] * NUM_BINS)
    """The sum of the probabilities in each bin."""
    true: list[int] = field(default_factory=lambda: [0] * NUM_BINS)
    """The number of right answers in each bin."""
    squares: float = 0.0
    """The sum of the squared differences between the probability and the outcome (0 or 1)."""

    def add(self, probability: float, true: bool) -> None:
        """Add a probability; `true` says whether the answer was right."""
        number = min(NUM_BINS - 1, max(0, int(probability * NUM_BINS)))
        self.counts[number] += 1
        self.sums[number] += probability
        self.true[number] += true
        self.squares += (probability - true) ** 2

    def add_known(self, probability: float | None, true: bool) -> None:
        """Add a probability, unless it is None because it was not finite."""
        if probability is not None:
            self.add(float(probability), true)

    @property
    def total(self) -> int:
        """The number of probabilities."""
        return sum(self.counts)

    @property
    def calibration_error(self) -> float:
        """The expected calibration error (ECE).

        It is the mean over the bins, weighted by size, of the difference between the mean
        probability and the share of right answers.
        """
        pairs = zip(self.sums, self.true, strict=True)
        return sum(abs(expected - true) for expected, true in pairs) / self.total

    @property
    def brier(self) -> float:
        """The Brier score: the mean squared difference between probability and outcome."""
        return self.squares / self.total


@dataclass
class Digest:
    """Statistics and examples of predictions, for a report.

    The lines of predictions.jsonl must be passed to `add` in the order of the file.
    """

    size: int = 0
    """The number of predictions."""
    classes: ClassCounts = field(default_factory=ClassCounts)
    references: "array[float]" = field(default_factory=lambda: array("d"))
    """The reference numbers of a regression."""
    numbers: "array[float]" = field(default_factory=lambda: array("d"))
    """The predicted numbers of a regression."""
    calibration: CalibrationBins = field(default_factory=CalibrationBins)
    spans: SpanErrors = field(default_factory=SpanErrors)
    worst: list[Line] = field(default_factory=list)
    """The lines with the greatest losses, which are the first lines of the file."""
    _uncertain: list[tuple[float, int, Line]] = field(default_factory=list)
    """A heap of (uncertainty, -line number, line)."""

    @property
    def uncertain(self) -> list[Line]:
        """The lines with the least certain answers, in order of increasing certainty."""
        return [line for *_, line in sorted(self._uncertain, reverse=True)]

    def add(self, line: Line) -> None:
        """Add a line of predictions.jsonl."""
        self.size += 1
        if len(self.worst) < NUM_WORST and isinstance(line.get("loss"), float):
            self.worst.append(line)
        reference = line.get("reference")
        if "entities" in line and isinstance(reference, list):
            self._add_spans(line, reference)
        elif "labels" in line and isinstance(reference, list):
            self._add_labels(line, reference)
        elif "value" in line and isinstance(reference, (int, float)):
            if line["value"] is not None:
                self.references.append(float(reference))
                self.numbers.append(float(line["value"]))
        elif (
            reference is not None and (chosen := line.get("label", line.get("choice"))) is not None
        ):
            self._add_decision(str(chosen), str(reference), line.get("score"))
        self._keep_uncertain(line)

    def _add_decision(self, label: str, reference: str, score: object) -> None:
        self.classes.add([label], [reference])
        self.classes.pairs[reference, label] += 1
        if isinstance(score, (int, float)):
            self.calibration.add(float(score), label == reference)

    def _add_labels(self, line: Line, reference: list[str]) -> None:
        self.classes.add(list(line["labels"]), reference)
        for name, share in (line.get("probabilities") or {}).items():
            self.calibration.add_known(share, name in reference)

    def _add_spans(self, line: Line, reference: list[Mapping[str, Any]]) -> None:
        wanted = [Span.of(each) for each in reference]
        found = [Span.of(each) for each in line["entities"]]
        self.classes.predicted.update(span.label for span in found)
        self.classes.wanted.update(span.label for span in wanted)
        self.classes.hits.update(span.label for span in set(found) & set(wanted))
        self.spans.add(line, found, wanted)
        for span, entity in zip(found, line["entities"], strict=True):
            self.calibration.add_known(entity.get("score"), span in wanted)

    def _keep_uncertain(self, line: Line) -> None:
        found = uncertainty(line)
        if found is not None:
            entry = (found, -self.size, line)
            if len(self._uncertain) < NUM_UNCERTAIN:
                heapq.heappush(self._uncertain, entry)
            else:
                heapq.heappushpop(self._uncertain, entry)


def digests_of(lines: Iterable[Line]) -> dict[str, Digest]:
    """Make a digest for each task: task -> digest; the key is '' if there is only one task."""
    found: dict[str, Digest] = {}
    for line in lines:
        found.setdefault(str(line.get("task", "")), Digest()).add(line)
    return found


def uncertainty(line: Line) -> float | None:
    """How uncertain an answer is, from 0 to 1; None if a probability is missing or not finite.

    For a single label, it is 1 minus the difference between the two highest probabilities. For
    several labels, it is 1 minus twice the smallest distance of a probability from 0.5. For spans,
    it is 1 minus the lowest score, and for other answers 1 minus the score.
    """
    shares = line.get("probabilities") or line.get("choice_probabilities")
    if shares:
        values = list(shares.values()) if isinstance(shares, Mapping) else list(shares)
        if None in values:
            return None
        if "labels" in line:
            return 1 - 2 * min(abs(value - 0.5) for value in values)
        first, *rest = heapq.nlargest(2, values)
        return 1 - (first - rest[0]) if rest else None
    scored = [line, *(line.get("entities") or ())]
    scores = [each["score"] for each in scored if isinstance(each.get("score"), float)]
    return 1 - min(scores) if scores else None
