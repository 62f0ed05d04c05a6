"""Start and end summaries: all facts are shown, and the report by class fits the width."""

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from trainer.metrics.report import classification_report
from trainer.rendering.classes import class_report
from trainer.rendering.end import end_summary
from trainer.rendering.start import start_summary


def _lines(renderable, width=80):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(renderable, crop=False)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def _report(num_classes):
    ids = np.arange(num_classes)
    names = [f"class number {n} with a name that is long" for n in ids]
    return classification_report(np.roll(ids, 1), ids, names).to_dict()


def test_the_start_says_what_is_trained_on_what_and_where(facts):
    assert _lines(start_summary(facts)) == [
        "model   bert from pkg://package/model",
        "        22.7 M parameters",
        "data    1,280 samples, 1.2 M tokens, 47 % padding avoided",
        "        evaluated on 745 samples",
        "steps   120 (3 epochs), 32 samples each",
        "device  cpu, bf16, 1 process",
        "output  runs/a",
        "",
    ]


def test_the_start_of_a_run_on_data_without_end(facts):
    unknown = {"num_train_samples": None, "num_train_tokens": None, "padding_avoided": None}
    lines = _lines(start_summary(replace(facts, steps_per_epoch=None, **unknown)))
    assert lines[2:5] == [
        "data    a stream",
        "        evaluated on 745 samples",
        "steps   120, 32 samples each",
    ]


def test_the_start_of_a_resumed_run_on_two_sets_with_frozen_weights(facts):
    lines = _lines(
        start_summary(
            replace(
                facts,
                output_dir=None,
                num_trainable_parameters=7104,
                num_eval_samples={"a": 9815, "b": 9832},
                first_step=40,
                num_processes=4,
                imbalance=0.0312,
            )
        )
    )
    assert "        22.7 M parameters, 7,104 of them trained" in lines
    assert "        evaluated on 9,815 a + 9,832 b samples" in lines
    assert "steps   120 (3 epochs), 32 samples each, the first 40 steps done" in lines
    uneven = "the busiest does 3 % more than the mean"
    assert f"device  cpu, bf16, 4 processes; {uneven}" in lines
    assert "output  nothing is written" in lines
    one = _lines(start_summary(replace(facts, num_eval_samples={"": 1}, num_train_samples=1)))
    assert "        evaluated on 1 sample" in one and "data    1 sample, " in one[2]
    assert "        no evaluation set" in _lines(start_summary(replace(facts, num_eval_samples={})))
    cut = _lines(start_summary(replace(facts, num_truncated_rows={"train": 2310, "a": 0, "b": 1})))
    assert "        cut to the maximum length: 2,310 rows of train, 1 row of b" in cut


def test_the_end_says_what_came_out_and_how_to_go_on():
    command = "python launch.py job=predict model.path=" + "runs/a/" * 20
    summary = {
        "steps": 120,
        "samples": 20_619,
        "epochs": 3.0,
        "seconds": 123.4,
        "metrics": {"eval_loss": 0.61, "eval_accuracy": float("nan")},
        "best": {"step": 80, "metric": "eval_loss", "value": 0.5},
        "model_path": "runs/a/model",
        "commands": {"predict": command},
        "report": None,
        "stopped": None,
    }
    said = [
        "finished 120 steps (3 epochs, 20,619 samples) in 2 min 3 s",
        "eval_loss      0.6100",
        "eval_accuracy  -",
        "best           eval_loss 0.5000 at step 80",
        "",
        "model    runs/a/model",
        f"predict  {command}",
    ]
    assert _lines(end_summary(summary, 80, report=True)) == ["", *said, ""]
    stopped = summary | {"stopped": "no better evaluation", "best": None, "report": _report(2)}
    lines = _lines(end_summary(stopped, 80, report=False))
    assert lines[1].startswith("stopped after 120 steps") and lines[2] == "no better evaluation"
    assert not any("best " in line or "precision" in line for line in lines)


@pytest.mark.parametrize("width, matrix", [(80, True), (40, False)])
def test_the_report_keeps_to_the_width(width, matrix):
    lines = _lines(class_report(_report(16), width), width=200)
    assert max(map(len, lines)) <= width
    assert ("rows: true class, columns: predicted class" in lines) == matrix
    figures = lines[1].partition("…")[2].split()
    assert figures == ["0.0000"] * (3 if matrix else 1) + ["1"]


def test_too_many_classes_are_left_to_the_file():
    assert class_report(_report(21), 1000) is None


def test_label_sets_have_no_matrix():
    report = classification_report(np.eye(3, dtype=int), np.eye(3, dtype=int), list("abc"))
    assert len(_lines(class_report(report.to_dict(), 80))) == 4
