"""The report of a real run is written at its end and after a failure, and never fails a run."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_exactness import RECIPES, ragged_table, tiny_model
from tests.unit.test_trainer import trainer
from tests.unit.text_runs import CASES
from trainer.callbacks.callback import Callback
from trainer.errors import EnvironmentFault, InputError
from trainer.reports import run_report
from trainer.trainer import Trainer
from trainer.training import report_writing
from trainer.training.report_writing import ReportWriting


class Fails(Callback):
    """Ends the run after a step, with a secret in the message."""

    def on_step_end(self, step: int, total_steps: int) -> None:
        if step == 3:
            raise EnvironmentFault("the plug was pulled: hf_abcdefghijklmnopqrst")


def test_a_run_leaves_a_report_of_all_that_it_logged(tmp_path: Path) -> None:
    trainer(tmp_path, logging_steps=1, eval_steps=2).fit()
    page = (tmp_path / "report.html").read_text()
    assert "could not be read" not in page and ">finished " in page
    for words in ("Learning rate", "Memory, GiB", "Lengths: train", "torch", "By class"):
        assert words in page
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    trained = [row for row in rows if "loss" in row]
    assert all(0 < row["memory_gib"] <= row["peak_memory_gib"] for row in trained)
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["starts"][0]["ended"] == "finished"
    assert facts["config"]["trainer"]["eval_steps"] == 2
    assert facts["defaults"]["trainer.eval_steps"] == "epoch"


def test_a_run_of_several_tasks_leaves_one_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    CASES["tasks, bert"].trainer(tmp_path, max_steps=1, eval_steps=0, save_steps=0).fit()
    assert "report: not written" not in caplog.text
    assert json.loads((tmp_path / "facts.json").read_text())["truncated"].keys() >= {"train"}


def test_a_run_that_fails_says_why_and_one_that_resumes_lists_both_starts(tmp_path: Path) -> None:
    run = trainer(tmp_path, save_steps=2, logging_steps=1)
    run.callbacks.append(Fails())
    with pytest.raises(EnvironmentFault):
        run.fit()
    page = (tmp_path / "report.html").read_text()
    assert "not finished: step 2" in page and "the plug was pulled" in page
    assert "hf_abcdefghijklmnopqrst" not in page + (tmp_path / "facts.json").read_text()
    trainer(tmp_path, save_steps=2, logging_steps=1).fit()
    starts = json.loads((tmp_path / "facts.json").read_text())["starts"]
    assert [start["step"] for start in starts] == [0, 2]
    assert starts[0]["ended"].startswith("the plug") and starts[1]["ended"] == "finished"


def test_a_report_that_cannot_be_made_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    (tmp_path / "report.html").mkdir(parents=True)  # a file cannot replace it
    (tmp_path / "facts.json").mkdir()
    with caplog.at_level(logging.WARNING, logger="trainer"):
        whole = trainer(tmp_path).fit()
    lines = [record.getMessage() for record in caplog.records if "report:" in record.getMessage()]
    assert lines and all(str(tmp_path) in line and "\n" not in line for line in lines)
    caplog.clear()

    def broken(record: object) -> bytes:
        raise ZeroDivisionError("a fault\nof ours")

    monkeypatch.setattr(run_report, "report", broken)
    results = trainer(tmp_path / "b").fit()
    (line,) = [r.getMessage() for r in caplog.records if "report:" in r.getMessage()]
    assert line.endswith("(ZeroDivisionError: a fault of ours)")
    assert results["metrics"] == whole["metrics"]


def test_a_run_that_did_not_begin_leaves_the_report_as_it_is(tmp_path: Path, caplog: Any) -> None:
    trainer(tmp_path).fit()
    before = (tmp_path / "report.html").read_bytes()
    with pytest.raises(InputError, match="global_batch_size"):
        trainer(tmp_path, global_batch_size=5, num_epochs=9).fit()
    assert (tmp_path / "report.html").read_bytes() == before
    assert not [line for line in caplog.messages if "report:" in line]


def test_it_is_left_out_on_request(tmp_path: Path) -> None:
    trainer(tmp_path, report=False).fit()
    assert not (tmp_path / "report.html").exists() and not (tmp_path / "facts.json").exists()


def test_during_a_run_it_is_written_where_that_is_cheap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []
    monkeypatch.setattr(run_report, "write_report", written.append)
    run = trainer(tmp_path)
    run._prepare()
    writing = ReportWriting(run.session)
    now = [0.0]
    monkeypatch.setattr(report_writing.time, "perf_counter", lambda: now[0])
    writing._last = 0.0
    for seconds in range(0, 61):
        now[0] = float(seconds)
        writing.evaluated()
    assert len(written) == 15  # after 31 s, then every 2 s: these reports cost nothing
    writing._cost = 5.0
    now[0] += 499
    writing.evaluated()
    assert len(written) == 15


def test_an_evaluation_set_named_train_is_not_the_training_set(tmp_path: Path) -> None:
    run = Trainer(
        tiny_model().float(),
        RECIPES["single_label"],
        {"max_steps": 1, "precision": "fp32"},
        train_dataset=ragged_table(45),
        eval_dataset={"train": ragged_table(20), "other": ragged_table(10)},
        output_dir=tmp_path,
        progress=False,
    )
    run.fit()
    lengths = json.loads((tmp_path / "facts.json").read_text())["lengths"]
    sizes = {name: sum(found["counts"]) for name, found in lengths.items()}
    assert sizes == {"train": 45, "validation train": 20, "other": 10}
