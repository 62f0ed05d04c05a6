"""Real processes whose standard output is full or closed, or whose reader closes the pipe."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

TRAIN = "dataset.train=train.jsonl dataset.validation=dev.jsonl trainer.max_steps=3"
CASES = {
    "left": ("", "Broken pipe"),
    "full": ("> /dev/full", "No space left on device"),
    "closed": ("<&- >&-", "standard output is closed"),
}


def shell(
    repository: Path, arguments: str, ending: str, out: int = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    command = f"set -o pipefail; '{sys.executable}' '{repository}/launch.py' {arguments} {ending}"
    return subprocess.run(
        ["bash", "-c", command], stdout=out, stderr=subprocess.PIPE, text=True, timeout=600
    )


@contextmanager
def pipe_without_a_reader() -> Iterator[int]:
    """The end for writing of a pipe whose reader has left.

    After `| head -1` a short training may be over before `head` has read its line and left.
    """
    reader, writer = os.pipe()
    os.close(reader)
    try:
        yield writer
    finally:
        os.close(writer)


@pytest.mark.parametrize(
    "case", [pytest.param(name, marks=[pytest.mark.slow] * (name != "left")) for name in CASES]
)
def test_a_training_goes_on_and_says_so(
    case: str, table: Path, tiny: Path, repository: Path
) -> None:
    ending, said = CASES[case]
    words = f"model.path={tiny} {TRAIN} trainer.logging_steps=1 output_dir=run"
    with pipe_without_a_reader() as writer:
        done = shell(repository, words, ending, writer if case == "left" else subprocess.PIPE)
    assert done.returncode == 0, done.stderr
    assert said in done.stderr and "the run continues" in done.stderr
    assert "Exception ignored" not in done.stderr and "Traceback" not in done.stderr
    assert json.loads(Path("run/results.json").read_text())["steps"] == 3
    lines = Path("run/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines if '"loss"' in line] == [1, 2, 3]


@pytest.mark.slow
def test_answers_that_nobody_can_read_are_said(trained: Path, repository: Path) -> None:
    predict = f"job=predict model.path={trained}/model input.file=dev.jsonl"
    closed = shell(repository, predict, ">&-")
    assert closed.returncode == 3 and closed.stderr.count("\n") == 2  # the warning, and the error
    assert "error: standard output is closed" in closed.stderr
    full = shell(repository, predict, "> /dev/full")
    assert full.returncode == 3 and "No space left" in full.stderr and full.stderr.count("\n") == 1
    left = shell(repository, predict, "| head -1")
    assert left.returncode == 0 and left.stderr == ""
    assert "label" in json.loads(left.stdout)
