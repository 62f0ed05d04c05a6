"""Every job of configs/job on one process and on two: done, or one line where two are not taken."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launch import CONFIGS
from tests.jobs.conftest import DATA, write_tables
from tests.jobs.test_generation_jobs import chatty, decoder  # noqa: F401 (fixtures)

CLASSIFIER = {
    "train": (*DATA, "trainer.max_steps=2", "trainer.global_batch_size=16", "output_dir=trained"),
    "evaluate": ("dataset.validation=dev.jsonl", "output_dir=measured"),
    "predict": ("input.file=dev.jsonl", "output.file=answers.csv"),
    "inspect": (*DATA, "inspect.samples=1"),
}
"""Job -> arguments beside the model; each runs on any number of processes."""
DECODER = {
    "generate": ("input.prompt=a happy", "generation.max_new_tokens=3"),
    "chat": ("generation.max_new_tokens=3",),
}
"""Jobs of one process."""


def arguments(job: str, tiny: Path, run: Path, language_model: Path) -> tuple[str, ...]:
    """The command line of a job."""
    if job in DECODER:
        return (f"job={job}", f"model.path={language_model}", *DECODER[job])
    model = run / "model" if job in ("evaluate", "predict") else tiny
    return (f"job={job}", f"model.path={model}", *CLASSIFIER[job])


def check(job: str) -> None:
    """What the job leaves in the working folder."""
    if job == "train":
        assert json.loads(Path("trained/results.json").read_text())["steps"] == 2
    elif job == "evaluate":
        assert (
            "eval_accuracy" in json.loads(Path("measured/evaluation.json").read_text())["metrics"]
        )
    elif job == "predict":
        assert len(Path("answers.csv").read_text().splitlines()) == 41


def test_no_job_is_missing() -> None:
    found = {path.stem for path in (CONFIGS / "job").glob("*.yaml")}
    assert found == {*CLASSIFIER, *DECODER}


@pytest.mark.parametrize("job", [*CLASSIFIER, *DECODER])
def test_on_one_process(
    job: str,
    ask: Callable[..., Any],
    tiny: Path,
    workshop: Path,
    chatty: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_tables(Path.cwd())
    monkeypatch.setattr("sys.stdin", io.StringIO("a happy\n"))
    answer = ask(*arguments(job, tiny, workshop / "run", chatty), "launch.num_processes=1")
    assert answer.code == 0, answer.err
    check(job)


@pytest.mark.slow
@pytest.mark.parametrize("job", [*CLASSIFIER, *DECODER])
def test_on_two_processes(
    job: str,
    alone: None,
    tiny: Path,
    workshop: Path,
    chatty: Path,  # noqa: F811
    repository: Path,
) -> None:
    write_tables(Path.cwd())
    words = arguments(job, tiny, workshop / "run", chatty)
    done = subprocess.run(
        [sys.executable, str(repository / "launch.py"), *words, "launch.num_processes=2"],
        env={**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    if job in DECODER:
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        assert "launch.num_processes: found 2 for" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    check(job)
