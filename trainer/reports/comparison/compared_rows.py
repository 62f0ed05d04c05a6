"""Compared rows: finds the rows that all runs predicted, so that metrics can compare them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.reports.digest import Line
from trainer.reports.run_record import RunRecord
from trainer.tasks.comparison import Comparison, ExtractedAnswer


@dataclass(frozen=True)
class ComparedRows:
    """N rows for which all runs have predictions, ordered by row number."""

    lines: Sequence[Sequence[Line]]
    """For each run, the lines of the N rows."""
    num_left_out: int
    """The number of rows that are missing in a run, or whose input or reference differs."""
    answer_columns: Sequence[str] = ()
    """The columns that contain the references."""

    @classmethod
    def of(cls, records: Sequence[RunRecord], set_name: str) -> "ComparedRows":
        """Find the rows of an evaluation set for which all runs have predictions.

        The result has no rows if any row has several samples.
        """
        found = [_by_row(record, set_name) for record in records]
        every = set().union(*found)
        shared = [row for row in sorted(every) if _is_shared(row, found)]
        lines = [[own[row] for row in shared] for own in found]
        known = records[0].facts
        return cls(lines, len(every) - len(shared), known.answer_columns if known else ())

    @property
    def size(self) -> int:
        """N, the number of rows."""
        return len(self.lines[0]) if self.lines else 0

    def losses(self) -> list[np.ndarray] | None:
        """The losses [N] of the rows, for each run; None if a row has no loss."""
        found = [[line.get("loss") for line in own] for own in self.lines]
        if not self.size or not all(isinstance(loss, float) for own in found for loss in own):
            return None
        return [np.array(own) for own in found]

    def comparisons(self, labels: Sequence[str]) -> list[Comparison] | None:
        """The predictions and references of each run; None if the kind of answer is unknown.

        `labels` are the names of the classes in the order of their ids.
        """
        columns = self.answer_columns
        found = [_comparison(own, labels, columns) for own in self.lines] if self.size else []
        whole = [each for each in found if each is not None]
        return whole if found and len(whole) == len(found) else None


def _by_row(record: RunRecord, set_name: str) -> dict[int, Line]:
    """Row number -> line; empty if a row has several samples, which have the same row number."""
    lines = [line for line in record.predictions(set_name) if isinstance(line.get("row"), int)]
    found: dict[int, Line] = {line["row"]: line for line in lines}
    return found if len(found) == len(lines) else {}


def _is_shared(row: int, found: Sequence[Mapping[int, Line]]) -> bool:
    """Whether all runs have the row, with equal input and reference."""
    if not all(row in own for own in found):
        return False
    questions = {json.dumps(_question(own[row]), sort_keys=True, default=str) for own in found}
    return len(questions) == 1


def _question(line: Line) -> list[Any]:
    return [line.get(key) for key in ("input", "reference", "references", "task")]


def _comparison(
    lines: Sequence[Line], labels: Sequence[str], answer_columns: Sequence[str]
) -> Comparison | None:
    first = lines[0]
    if "prediction" in first:
        return _texts(lines, answer_columns)
    if "scores" in first and "references" in first:
        return _paired("rankings", lines, lambda line: (line["scores"], line["references"]))
    if "answer" in first:
        return _answers(lines)
    if any("reference" not in line for line in lines):
        return None
    if "entities" in first:
        return _paired(
            "spans", lines, lambda line: (_spans(line["entities"]), _spans(line["reference"]))
        )
    if "value" in first:
        pairs = np.array([(line["value"], line["reference"]) for line in lines], dtype=float)
        return Comparison("numbers", pairs[:, 0], pairs[:, 1])
    if "labels" in first:
        return _label_sets(lines, labels)
    return _classes(lines, labels)


def _texts(lines: Sequence[Line], answer_columns: Sequence[str]) -> Comparison | None:
    """Compare generated texts; references are in the lines, or in an answer column of the input."""
    wanted = [_reference(line, answer_columns) for line in lines]
    if not all(isinstance(each, (str, list)) for each in wanted):
        return None
    return Comparison("texts", [line["prediction"] for line in lines], wanted)


def _reference(line: Line, answer_columns: Sequence[str]) -> object:
    """The reference of a line, which may be an empty text; None if it is unknown."""
    if line.get("reference") is not None:
        return line["reference"]
    cells = line.get("input") or {}
    return next((cells.get(name) for name in answer_columns), None)


def _paired(kind: str, lines: Sequence[Line], of: Any) -> Comparison:
    pairs = [of(line) for line in lines]
    return Comparison(kind, [found for found, _ in pairs], [wanted for _, wanted in pairs])


def _spans(entries: Sequence[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    return [(each["start"], each["end"], each["label"]) for each in entries]


def _classes(lines: Sequence[Line], labels: Sequence[str]) -> Comparison | None:
    pairs = [(line.get("label", line.get("choice")), line["reference"]) for line in lines]
    if any(found is None for found, _ in pairs):
        return None
    names = [*labels, *sorted({str(each) for pair in pairs for each in pair} - set(labels))]
    number = {name: index for index, name in enumerate(names)}
    found, wanted = (np.array([number[str(pair[side])] for pair in pairs]) for side in (0, 1))
    return Comparison("classes", found, wanted, names)


def _label_sets(lines: Sequence[Line], labels: Sequence[str]) -> Comparison:
    sets = [(set(line["labels"]), set(line["reference"])) for line in lines]
    names = [*labels, *sorted(set().union(*(a | b for a, b in sets)) - set(labels))]
    sides = [[[int(name in pair[side]) for name in names] for pair in sets] for side in (0, 1)]
    return Comparison("label_sets", np.array(sides[0]), np.array(sides[1]), names)


def _answers(lines: Sequence[Line]) -> Comparison | None:
    """Compare answers to questions; the input contains the accepted texts, in SQuAD's format."""
    found, wanted = [], []
    for line in lines:
        cells = [v for v in (line.get("input") or {}).values() if isinstance(v, Mapping)]
        texts = next((v["text"] for v in cells if isinstance(v.get("text"), list)), None)
        if texts is None:
            return None
        best = line["answer"]
        found.append(ExtractedAnswer(best, best, float(line.get("no_answer_score", 0.0))))
        wanted.append(texts)
    return Comparison("answers", found, wanted)
