"""The report and show jobs on a real run: pages, comparisons, plots, and errors."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from trainer.reports.comparison import bootstrap


@pytest.fixture
def runs(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two copies of the finished run in the working folder; one says it had another setting."""
    for name in ("a", "b"):
        shutil.copytree(trained, tmp_path / name)
    file = tmp_path / "b" / "facts.json"
    file.write_text(file.read_text().replace('"learning_rate": 0.003', '"learning_rate": 0.004'))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bootstrap, "NUM_RESAMPLES", 100)
    return tmp_path


def test_the_report_of_a_run_and_the_line_that_names_it(trained: Path, ask: Any) -> None:
    before = (trained / "report.html").read_bytes()
    for words in (b"By class", b"Confusion matrix", b"Calibration", b"Greatest losses", b"0.003"):
        assert words in before
    assert b"could not be read" not in before
    answer = ask("job=report", "runs=run")
    assert answer.code == 0 and "run/report.html" in answer.out
    assert (trained / "report.html").read_bytes() == before
    results = json.loads((trained / "results.json").read_text())
    assert results["report_path"] == "run/report.html"


def test_runs_are_compared(runs: Path, ask: Any) -> None:
    answer = ask("job=report", "runs=[a,b]")
    assert answer.code == 0
    (page,) = runs.glob("comparison-*.html")
    assert f"written to {page.name}" in answer.out
    text = re.sub(r"<[^>]*>", " ", page.read_text())
    assert "Comparison of 2 runs" in text and "40 rows" in text and "f1_macro" in text
    assert re.search(r"trainer\.learning_rate\s+0\.003\s+0\.004", text)
    assert "could not be read" not in text


def test_a_run_cannot_grant_trust_to_its_metrics(runs: Path, ask: Any, caplog: Any) -> None:
    file = runs / "a" / "facts.json"
    facts = json.loads(file.read_text())
    hub = {"_target_": "trainer.metrics.hub.HubMetric", "name": "x", "greater_is_better": True}
    facts["config"]["metrics"] = {
        "code": {**hub, "trust_remote_code": True},
        "foreign": {"_target_": "subprocess.Popen", "args": ["true"]},
        "odd": 3,
    }
    file.write_text(json.dumps(facts))
    answer = ask("job=report", "runs=[a,b]")
    assert answer.code == 0
    for name in ("trust_remote_code", "subprocess.Popen", "metrics.odd"):
        (line,) = [line for line in caplog.messages if name in line]
        assert "no intervals are computed for it" in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("job=report",), "runs: nothing given; accepted: folders of runs"),
        (("job=report", "runs=[run,./run]"), "run is given twice"),
        (("job=report", "runs=[run,nothing]"), "nothing: holds no run"),
        (("runs=[run]",), "runs: job=train has no runs; accepted: for example job=report"),
        (("job=show",), "run: nothing given; accepted: the folder of a run"),
        (("job=show", "run=nothing"), "nothing: holds no run"),
    ],
)
def test_what_is_refused(trained: Path, ask: Any, words: tuple[str, ...], message: str) -> None:
    answer = ask(*words)
    assert answer.code == 2 and message in answer.err and answer.err.count("\n") == 1


def test_curves_in_the_terminal(trained: Path, ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("plotext")
    answer = ask("job=show", "run=run")
    assert answer.code == 0 and "finished 24 steps" in answer.out and "\x1b" not in answer.out
    for words in ("Loss", "training", "evaluation", "Evaluation: accuracy", "Learning rate"):
        assert words in answer.out
    assert max(map(len, answer.out.splitlines())) <= 100
