"""Digests: classes, calibration, spans and examples by hand."""

from typing import Any

import pytest

from trainer.reports.digest import (
    NUM_UNCERTAIN,
    NUM_WORST,
    CalibrationBins,
    Digest,
    digests_of,
    uncertainty,
)
from trainer.reports.result_names import by_metric, result_names
from trainer.reports.sections.classes import classes
from trainer.reports.sections.examples import example
from trainer.reports.span_errors import Span, SpanErrors


def span(start: int, end: int, label: str = "a", **more: Any) -> dict[str, Any]:
    return {"start": start, "end": end, "label": label, **more}


def test_every_kind_of_error_of_spans() -> None:
    errors = SpanErrors()
    wanted = [Span(0, 2, "a"), Span(4, 6, "a"), Span(8, 12, "a"), Span(14, 18, "a")]
    wanted.append(Span(20, 22, "b"))
    found = [Span(0, 2, "a"), Span(4, 6, "b"), Span(8, 10, "a"), Span(15, 18, "b")]
    found.append(Span(30, 32, "b"))
    errors.add({"row": 1}, found, wanted)
    assert dict(errors.counts["a"]) == {
        "correct": 1,
        "type": 1,
        "boundaries": 1,
        "type and boundaries": 1,
    }
    assert dict(errors.counts["b"]) == {"missed": 1, "spurious": 1}
    assert errors.confused == {("a", "b"): 2}
    assert sorted(errors.examples) == sorted(
        ["type", "boundaries", "type and boundaries", "missed", "spurious"]
    )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ({"label": "a", "probabilities": {"a": 0.6, "b": 0.3, "c": 0.1}}, 0.7),
        ({"choice": 0, "choice_probabilities": [0.75, 0.25]}, 0.5),
        ({"labels": ["a"], "probabilities": {"a": 0.9, "b": 0.4}}, 0.8),
        ({"entities": [span(0, 1, score=0.9), span(2, 3, score=0.6)]}, 0.4),
        ({"answer": "x", "score": 0.25}, 0.75),
        ({"prediction": "text"}, None),
        ({"label": "a", "probabilities": {"a": 1.0}}, None),
        ({"label": "a", "probabilities": {"a": None, "b": None}}, None),
        ({"choice": 0, "choice_probabilities": [None, 0.25]}, None),
        ({"labels": [], "probabilities": {"a": None}}, None),
        ({"entities": [span(0, 1, score=None)]}, None),
    ],
)
def test_uncertainty(line: dict[str, Any], expected: float | None) -> None:
    found = uncertainty(line)
    assert found is None if expected is None else found == pytest.approx(expected)


def test_the_worst_and_the_least_certain_are_kept() -> None:
    digest = Digest()
    for row in range(100):
        digest.add({"row": row, "loss": 100.0 - row, "score": (row * 37 % 100) / 100})
    assert [line["row"] for line in digest.worst] == list(range(NUM_WORST))
    scores = [line["score"] for line in digest.uncertain]
    assert scores == [number / 100 for number in range(NUM_UNCERTAIN)]


def test_calibration_by_hand() -> None:
    bins = CalibrationBins()
    for probability, true in ((0.95, True), (0.95, False), (0.15, False), (1.0, True)):
        bins.add(probability, true)
    assert bins.counts[1] == 1 and bins.counts[9] == 3 and bins.total == 4
    assert bins.sums[9] == pytest.approx(2.9) and bins.true[9] == 2
    assert bins.calibration_error == pytest.approx((0.15 + 0.9) / 4)
    assert bins.brier == pytest.approx((0.05**2 + 0.95**2 + 0.15**2) / 4)


def test_tasks_are_told_apart_and_labels_counted() -> None:
    lines = [
        {"task": "one", "label": "a", "reference": "b", "score": 0.5},
        {"task": "two", "labels": ["a", "b"], "reference": ["b"], "probabilities": {"a": 0.6}},
        {"task": "two", "value": 1.5, "reference": 2},
        {"task": "three", "entities": [span(0, 2, score=0.5)], "reference": [span(0, 2)]},
    ]
    found = digests_of(lines)
    assert list(found) == ["one", "two", "three"]
    assert found["one"].calibration.counts[5] == 1 and found["one"].calibration.true[5] == 0
    assert found["one"].classes.pairs == {("b", "a"): 1}
    two = found["two"]
    assert two.classes.predicted == {"a": 1, "b": 1} and two.classes.hits == {"b": 1}
    assert two.calibration.counts[6] == 1 and not two.classes.pairs
    assert list(two.references) == [2.0] and list(two.numbers) == [1.5]
    assert found["three"].calibration.true[5] == 1 and found["three"].classes.hits == {"a": 1}


def test_figures_that_were_not_finite_are_left_out() -> None:
    """They are null in the file."""
    shares = {"a": None, "b": None}
    lines: list[dict[str, Any]] = [
        {"label": "a", "reference": "b", "score": None, "probabilities": shares},
        {"labels": ["a"], "reference": ["b"], "probabilities": shares},
        {"value": None, "reference": 2.0},
        {"entities": [span(0, 2, score=None)], "reference": [span(0, 2)]},
        {"choice": 1, "reference": 0, "choice_probabilities": [None, None], "loss": None},
    ]
    digest = digests_of(lines)[""]
    assert digest.size == 5 and not digest.calibration.total and not digest.numbers
    assert digest.classes.wanted == {"b": 2, "a": 1, "0": 1}
    assert "not finite" in "".join(map(example, lines[:2]))
    assert all("not finite" not in example(line) for line in lines[2:])


def test_classes_come_in_the_order_of_the_labels_and_many_without_a_matrix() -> None:
    digest = Digest()
    for number in range(60):
        digest.add({"label": f"class {number % 59}", "reference": f"class {number}"})
    found = classes(digest.classes, ["class 5", "class 3"])
    assert found.index(">class 5<") < found.index(">class 3<") < found.index(">class 0<")
    assert "Confusion matrix" not in found and "Most confused pairs" in found


def test_names_of_results_are_taken_apart() -> None:
    keys = ["eval_dev_loss", "eval_dev_two_samples", "eval_dev_two_f1", "eval_dev_two_long_f1"]
    keys += ["eval_dev_two_long_samples", "eval_loss", "step", "eval_dev_non_finite_samples"]
    names = result_names(keys, ["dev", "dev_b"])
    assert names["eval_dev_loss"] == ("dev", "", "loss")
    assert names["eval_dev_two_f1"] == ("dev", "two", "f1")
    assert names["eval_dev_two_long_f1"] == ("dev", "two_long", "f1")
    assert names["eval_dev_non_finite_samples"] == ("dev", "", "non_finite_samples")
    assert names["eval_loss"] == ("", "", "loss") and "step" not in names
    assert by_metric(names)["loss"] == ["eval_dev_loss", "eval_loss"]
