"""Progress: plain lines without a terminal, a bar with one, no output on other ranks."""

import io
import math
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from rich.progress import ProgressSample

from tests.screens import on_terminal
from trainer.callbacks.callback import RunFacts
from trainer.callbacks.progress import Progress
from trainer.rendering import evaluation_progress
from trainer.rendering.bar import training_bar
from trainer.rendering.evaluation_progress import EvaluationProgress
from trainer.terminal.console import make_console

FACTS = RunFacts(
    output_dir=Path("runs/a"),
    model_name="bert",
    model_path="pkg://package/model",
    num_parameters=22_713_216,
    num_trainable_parameters=22_713_216,
    num_train_samples=640,
    num_train_tokens=64_000,
    num_eval_samples={"": 100},
    total_steps=40,
    steps_per_epoch=20,
    first_step=0,
    global_batch_size=32,
    num_processes=1,
    device="cpu",
    precision="fp32",
    padding_avoided=0.47,
)
SUMMARY = {
    "steps": 40,
    "samples": 1280,
    "epochs": 2.0,
    "seconds": 12.0,
    "metrics": {"eval_loss": 0.5},
    "best": {"step": 20, "metric": "eval_loss", "value": 0.4},
    "model_path": "runs/a/model",
    "commands": {"predict": "python launch.py job=predict model.path=runs/" + "a" * 200},
    "report": {
        "classes": [
            {"label": "[red]", "precision": 1.0, "recall": None, "f1": 0.5, "support": 0},
            {"label": "b", "precision": 1.0, "recall": 0.5, "f1": 0.7, "support": 2},
        ],
        "confusion": [[0, 0], [1, 1]],
    },
    "stopped": None,
}


LINES = [
    "step 10/40  epoch 0.50  loss 0.1000  312 samples/s  1.2 GiB  peak 1.4 GiB",
    "step 20/40  epoch 1.00  loss 0.0500  312 samples/s  1.2 GiB  peak 1.4 GiB",
    "step 30/40  epoch 1.50  loss 0.0333  312 samples/s  1.2 GiB  peak 1.4 GiB",
    "step 40/40  epoch 2.00  loss 0.0250  312 samples/s  1.2 GiB  peak 1.4 GiB",
]


def run(callback):
    """The events of a run of 40 steps with two evaluations."""
    callback.on_start(FACTS)
    if callback._bar:  # else the thread may draw step 10 before its numbers are there
        callback._bar.live._refresh_thread.stop()
    for step in range(1, 41):
        callback.on_step_end(step, 40)
        if step == 20:
            evaluate(callback, 0)
        callback.on_step_measured({"step": step, "loss": 1 / step, "samples_per_second": 312.4})
        if step % 10 == 0:
            where = {"step": step, "epoch": step / 20}
            memory = {"memory_gib": 1.2, "peak_memory_gib": 1.4}
            callback.on_log(where | {"loss": 1 / step, "samples_per_second": 312.4} | memory)
        if step == 10 and callback._bar:
            callback._bar.refresh()
        if step == 30:
            callback.on_log({"step": 30, "skipped_loss": math.nan, "grad_norm": math.inf})
        if step % 20 == 0:
            results = {"eval_loss": 0.2 + 0.01 * step}
            callback.on_log(where | results)
            callback.on_evaluate(step, results, improved=step == 20)
    callback.on_end(SUMMARY)
    callback.on_close()


def test_without_a_terminal_each_logged_row_is_a_plain_line(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    run(Progress())
    printed = capsys.readouterr()
    assert printed.err == "" and "\x1b" not in printed.out and "\r" not in printed.out
    lines = printed.out.splitlines()
    assert [line for line in lines if line.startswith("step ")] == LINES
    assert "skipped  step 30  loss -  gradient norm inf" in lines
    assert "eval  step 20  epoch 1.00  loss 0.4000  best" in lines
    assert "eval  step 40  epoch 2.00  loss 0.6000" in lines
    assert "predict  " + SUMMARY["commands"]["predict"] in lines
    assert "[red]" not in printed.out  # the numbers by class are for terminals and results.json


def evaluate(callback, seconds=1):
    """An evaluation of 400 samples in four batches, the longest first, a few seconds each."""
    for done, share in ((0, 0.0), (100, 0.5), (200, 0.75), (300, 0.9), (400, 1.0)):
        callback.on_evaluation_batch(done, 400, share)
        CLOCK[0] += seconds


CLOCK = [0.0]


def test_without_a_terminal_a_long_evaluation_says_how_far_it_is(capsys, monkeypatch):
    monkeypatch.setattr(evaluation_progress, "time", SimpleNamespace(monotonic=lambda: CLOCK[0]))
    evaluate(EvaluationProgress(make_console()), 9)
    assert capsys.readouterr() == ("", "")  # it took 27 s and ended
    evaluate(EvaluationProgress(make_console()), 16)
    assert capsys.readouterr() == (
        "evaluating  samples 200/400  6.2 samples/s  10.7 s left\n",
        "",
    )
    one_of_two = EvaluationProgress(make_console(stderr=True), total=800)
    for one_of_two.before in (0, 400):
        evaluate(one_of_two, 20)
    assert capsys.readouterr() == (
        "",
        "evaluating  samples 200/800  5.0 samples/s  1 min 7 s left\n"
        "evaluating  samples 400/800  4.0 samples/s  1 min 40 s left\n"
        "evaluating  samples 600/800  4.3 samples/s  20.0 s left\n",
    )


def test_a_rank_that_was_not_told_of_the_start_is_silent(capsys):
    callback = Progress()
    callback.on_step_end(1, 40)
    callback.on_evaluate(1, {"eval_loss": 1.0}, improved=True)
    callback.on_close()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "columns, expected",
    [
        (40, "epoch 0.50 10/40 loss 0.2929 0:03 left"),
        (80, "epoch 0.50 10/40 BAR loss 0.2929 312 samples/s 1.2 GiB 0:03 left"),
        (
            120,
            "epoch 0.50 10/40 BAR loss 0.2929 312 samples/s data wait 12 % 1.2 GiB peak 1.4 GiB "
            "0:03 left",
        ),
    ],
)
def test_the_bar_takes_one_line_and_drops_what_does_not_fit(columns, expected):
    console = Console(file=io.StringIO(), width=columns, force_terminal=True, color_system=None)
    bar = training_bar(console, 0, 40)
    texts = {"epoch": "epoch 0.50", "loss": "loss 0.2929", "speed": "312 samples/s"}
    texts |= {"memory": "1.2 GiB", "peak": "peak 1.4 GiB"}
    texts |= {"wait": "data wait 12 %"} if columns == 120 else {}
    bar.update(bar.task_ids[0], completed=10, **texts)
    samples = bar.tasks[0]._progress
    samples.clear()
    samples.extend([ProgressSample(0, 0), ProgressSample(1, 10)])
    console.print(bar.get_renderable())
    (line,) = console.file.getvalue().splitlines()
    assert re.sub("[━╸╺]+", "BAR", line).split() == expected.split()
    # three columns stay free for an echoed ^C, if there is room
    assert len(line) == (40 if columns == 40 else columns - 3)


@pytest.mark.parametrize("columns", [80, 40])
def test_in_a_terminal_there_is_a_bar_and_the_report_by_class(columns):
    screen = on_terminal([__file__], columns, until={"10/40": 0})
    (bar,) = [line for line in screen.snapshots["10/40"] if "10/40" in line]
    assert bar.startswith("epoch 0.50 10/40") and "loss 0.2929" in bar and len(bar) <= columns
    assert ("312 samples/s" in bar) == (columns == 80)
    assert "10/40" not in screen.text and not screen.cursor_hidden and screen.code == 0
    assert "[red]" in screen.text and ("precision" in screen.text) == (columns == 80)
    assert "skipped  step 30  loss -  gradient norm" in screen.text
    # the terminal wraps commands, which can be copied as one line
    assert SUMMARY["commands"]["predict"] in screen.raw
    data = "data    640 samples, 64,000 tokens, 47 %{}padding avoided"
    assert data.format(" " if columns == 80 else "\n        ") in screen.text


def test_without_colours_and_without_redrawing():
    screen = on_terminal([__file__], environment={"NO_COLOR": "1"})
    assert "10/40" in screen.raw and not re.search(r"\x1b\[(\d+;)*[34]\d", screen.raw)
    screen = on_terminal([__file__], environment={"TERM": "dumb"})
    assert "\x1b" not in screen.raw and screen.raw.count("\r") == screen.raw.count("\r\n")
    assert [line for line in screen.lines if line.startswith("step ")] == LINES


def test_a_failed_run_gives_the_cursor_back():
    assert not on_terminal([__file__, "fail"]).cursor_hidden


def test_an_evaluations_bar_takes_the_trainings_place_for_a_while():
    screen = on_terminal([__file__, "evaluate"], until={"10/40": 0, "300/400": 0, "11/40": 0})
    assert "10/40" in screen.snapshots["10/40"][-1]
    assert screen.snapshots["300/400"][-1].startswith("evaluating 300/400")
    assert "10/40" not in screen.snapshots["300/400"][-1]
    assert "evaluating" not in "".join(screen.snapshots["11/40"])
    assert screen.lines[-1] == "over" and not screen.cursor_hidden


def test_a_failed_evaluation_gives_the_cursor_back():
    screen = on_terminal([__file__, "evaluate", "fail"])
    assert "100/400" in screen.raw and not screen.cursor_hidden


def evaluate_within(failing):
    """Ten steps, and a long evaluation."""
    callback = Progress()
    callback.on_start(FACTS)
    callback.on_step_end(10, 40)
    callback._bar.refresh()
    evaluation_progress.time = SimpleNamespace(monotonic=lambda: CLOCK[0])
    if failing:
        callback.on_evaluation_batch(0, 400, 0.0)
        CLOCK[0] += 2
        callback.on_evaluation_batch(100, 400, 0.5)
    else:
        evaluate(callback, 2)
        callback.on_step_end(11, 40)
        callback._bar.refresh()
    callback.on_close()
    print("over")


if __name__ == "__main__":
    if "evaluate" in sys.argv:
        evaluate_within("fail" in sys.argv)
    elif "fail" in sys.argv:
        failing = Progress()
        failing.on_start(FACTS)
        failing.on_close()
    else:
        run(Progress())
