"""Progress: plain lines without a terminal, a bar with one, silence on other ranks."""

import os
import pty
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from trainer.callbacks.callback import RunFacts
from trainer.callbacks.progress import Progress
from trainer.console import make_console
from trainer.rendering import evaluation_progress
from trainer.rendering.evaluation_progress import EvaluationProgress

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


def run(callback):
    """The moments of a run of 40 steps with two evaluations."""
    callback.on_start(FACTS)
    for step in range(1, 41):
        callback.on_step_end(step, 40)
        if step == 20:
            evaluate(callback, 0)
        if step % 10 == 0:
            where = {"step": step, "epoch": step / 20}
            callback.on_log(where | {"loss": 1 / step, "samples_per_second": 312.4})
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
    assert [line.split()[1] for line in lines if line.startswith("step ")] == [
        "10/40",
        "20/40",
        "30/40",
        "40/40",
    ]
    assert "eval  step 20/40  epoch 1.00  loss 0.4000  best" in lines
    assert "eval  step 40/40  epoch 2.00  loss 0.6000" in lines
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


def _in_a_terminal(columns, arguments):
    """What a process of this file prints to a terminal of so many columns."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": "60"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    process = subprocess.Popen(
        [sys.executable, __file__, *arguments], stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    output = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # Linux says so when the other side is closed
            break
        if not piece:
            break
        output += piece
    os.close(ours)
    assert process.wait() == 0, output.decode()
    return output.decode()


@pytest.mark.parametrize("columns", [80, 120])
def test_in_a_terminal_there_is_a_bar_and_the_report_by_class(columns):
    output = _in_a_terminal(columns, [])
    assert "40/40" in output and "312 samples/s" in output and "\x1b[2K" in output
    assert output.endswith("\n") and "\x1b[?25h" in output  # the cursor is back
    assert "[red]" in output and "true class below, predicted class across" in output
    assert SUMMARY["commands"]["predict"] in output  # whole: the terminal wraps it, we do not


def test_a_failed_run_gives_the_cursor_back():
    assert _in_a_terminal(80, ["fail"]).rindex("\x1b[?25h") > 0


def test_an_evaluations_bar_takes_the_trainings_place_for_a_while():
    output = _in_a_terminal(100, ["evaluate"])
    evaluating = output.index("evaluating")
    assert "300/400" in output[evaluating:] and "10/40" in output[:evaluating]
    assert "11/40" in output[output.rindex("evaluating") :]
    assert output.endswith("over\r\n") and "\x1b[?25h" in output[output.rindex("11/40") :]


def test_a_failed_evaluation_gives_the_cursor_back():
    output = _in_a_terminal(100, ["evaluate", "fail"])
    assert output.rindex("\x1b[?25h") > output.rindex("100/400")


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
