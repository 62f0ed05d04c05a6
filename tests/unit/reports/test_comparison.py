"""Comparisons: rows are paired by their number, and intervals have their coverage."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.reports.run_folders import HOSTILE, LABELS, write_lines, write_run
from tests.unit.reports.test_run_report import Elements
from trainer.metrics.classification import F1, Accuracy
from trainer.metrics.entities import EntityF1
from trainer.metrics.question_answering import Squad
from trainer.metrics.regression import Pearson
from trainer.reports.comparison import bootstrap
from trainer.reports.comparison.bootstrap import paired
from trainer.reports.comparison.compared_rows import ComparedRows
from trainer.reports.comparison.comparison_report import comparison_report, named
from trainer.reports.comparison.intervals import _cells
from trainer.reports.run_record import RunRecord


@pytest.fixture(autouse=True)
def few_resamples(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics of scikit-learn take a millisecond each; the mean loss is fast."""
    if "normal" not in request.node.name:
        monkeypatch.setattr(bootstrap, "NUM_RESAMPLES", 40)
        monkeypatch.setattr(bootstrap, "FEWEST", 10)


def record(folder: Path, lines: list[dict[str, Any]]) -> RunRecord:
    write_run(folder, answer_columns=["target"])
    write_lines(folder / "predictions-dev.jsonl", lines)
    return RunRecord.read(folder)


def compared(tmp_path: Path, *runs: list[dict[str, Any]]) -> ComparedRows:
    records = [record(tmp_path / str(number), lines) for number, lines in enumerate(runs)]
    return ComparedRows.of(records, "dev")


def test_rows_are_paired_by_number_and_only_equal_ones(tmp_path: Path) -> None:
    def line(row: int, text: str, loss: float) -> dict[str, Any]:
        return {"row": row, "loss": loss, "label": "a", "reference": "a", "input": {"text": text}}

    one = [line(2, "x", 3.0), line(0, "y", 2.0), line(1, "z", 1.0)]
    other = [line(0, "y", 9.0), line(1, "Z", 8.0), line(2, "x", 7.0), line(3, "w", 1.0)]
    rows = compared(tmp_path, one, other)
    assert rows.size == 2 and rows.num_left_out == 2
    losses = rows.losses()
    assert losses is not None and [each.tolist() for each in losses] == [[2.0, 3.0], [9.0, 7.0]]
    twice = compared(tmp_path / "again", one, [*other, line(0, "y", 1.0)])
    assert twice.size == 0 and twice.losses() is None and twice.comparisons([]) is None


def test_rows_without_a_reference_are_not_compared(tmp_path: Path) -> None:
    lines = [{"row": row, "loss": 1.0, "label": "a", "input": {}} for row in range(2)]
    lines[0]["reference"] = "a"
    assert compared(tmp_path, lines, lines).comparisons(LABELS) is None


ANSWERS: dict[str, Any] = {
    "classes": (Accuracy(), {"label": "a", "reference": "a"}),
    "label_sets": (F1(), {"labels": ["a"], "reference": ["a"]}),
    "spans": (
        EntityF1(),
        {
            "entities": [{"start": 0, "end": 2, "label": "x", "score": 0.5}],
            "reference": [{"start": 0, "end": 2, "label": "x"}],
        },
    ),
    "texts": (Squad(), {"prediction": "y", "reference": "y"}),
    "empty texts": (Squad(), {"prediction": "", "reference": "", "input": {"source": "x"}}),
    "texts in a column": (Squad(), {"prediction": "y", "input": {"target": "y", "source": "x"}}),
    "answers": (Squad(), {"answer": "y", "input": {"a": {"text": ["y"]}}}),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_every_kind_of_answer_is_scored_by_its_metric(tmp_path: Path, kind: str) -> None:
    metric, answer = ANSWERS[kind]
    lines = [{"row": row, "loss": 0.5, **answer} for row in range(12)]
    rows = compared(tmp_path, lines, lines)
    (_, result, *_) = paired(rows, {"m": metric}, ["a"])
    perfect = 100.0 if isinstance(metric, Squad) else 1.0
    assert [each.value for each in result.intervals] == [perfect, perfect]
    (difference,) = result.differences
    assert (difference.value, difference.low, difference.high, difference.p) == (0, 0, 0, 1)


def test_numbers_are_correlated(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    wanted = draw.normal(size=50)

    def lines(noise: float) -> list[dict[str, Any]]:
        found = wanted + noise * draw.normal(size=50)
        pairs = enumerate(zip(found, wanted, strict=True))
        return [{"row": n, "loss": 0.1, "value": a, "reference": b} for n, (a, b) in pairs]

    rows = compared(tmp_path, lines(0.1), lines(5.0))
    (_, result) = paired(rows, {"pearson": Pearson()}, [])
    (difference,) = result.differences
    assert difference.value < 0 and difference.high < 0 and difference.p < 0.06


def test_an_undefined_difference_is_not_significant(tmp_path: Path) -> None:
    constant = [{"row": n, "loss": 0.1, "value": 1.0, "reference": n} for n in range(12)]
    others = [{**line, "value": line["reference"]} for line in constant]
    (_, result) = paired(compared(tmp_path, constant, others), {"pearson": Pearson()}, [])
    (difference,) = result.differences
    assert np.isnan([difference.value, difference.low, difference.high, difference.p]).all()
    assert _cells(result.intervals[1], difference, result.num_resamples)[2:] == ("–", "–", "–")


def test_intervals_of_a_mean_are_those_of_the_normal_distribution(tmp_path: Path) -> None:
    losses = np.random.default_rng(1).normal(2.0, 1.0, size=400)
    lines = [{"row": row, "loss": float(loss)} for row, loss in enumerate(losses)]
    shifted = [{**line, "loss": line["loss"] + 0.5} for line in lines]
    (result,) = paired(compared(tmp_path, lines, shifted), {}, [])
    width = 2 * 1.96 * losses.std() / 20
    own = result.intervals[0]
    assert own.value == pytest.approx(losses.mean())
    assert own.high - own.low == pytest.approx(width, rel=0.1)
    (difference,) = result.differences  # paired: the shift is the same in every row
    assert difference.low == pytest.approx(0.5) and difference.high == pytest.approx(0.5)
    assert difference.p == 0


def test_a_slow_metric_gets_fewer_resamples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "SECONDS", 0.0)
    lines = [{"row": row, "loss": 0.5} for row in range(12)]
    (result,) = paired(compared(tmp_path, lines, lines), {}, [])
    assert result.num_resamples == bootstrap.FEWEST


def test_the_page(tmp_path: Path) -> None:
    settings = {"trainer": {"learning_rate": 3e-4}, "recipe": {"text": HOSTILE}}
    folders = [write_run(tmp_path / HOSTILE.replace("/", "") / name) for name in "ab"]
    folders.append(write_run(tmp_path / "c", scale=2.0, config=settings))
    (folders[1] / "facts.json").unlink()
    records = [RunRecord.read(folder) for folder in folders]
    page = comparison_report(records, {"accuracy": Accuracy()})
    found = Elements(page)
    assert found.counts["script"] == 1 and "img" not in found.counts
    for words in ("Comparison of 3 runs", "trainer.learning_rate", "0.0003", "0.001", "60 rows"):
        assert words in found.text
    assert "12 rows that a gets right and c wrong" in found.text
    assert "run_name" not in found.text and "could not be read" not in found.text
    data = [json.loads(value or "") for name, value in found.attributes if name == "data-chart"]
    assert any([s["name"] for s in chart["series"]] == ["a", "b", "c"] for chart in data)
    assert LABELS[0] in found.text


def test_the_working_folder_has_its_own_name() -> None:
    folders = [Path(), Path("../b"), Path("x/a"), Path("y/a")]
    runs = named([RunRecord(folder, "", None, []) for folder in folders])
    assert list(runs) == [Path.cwd().name, "b", "x/a", "y/a"]
