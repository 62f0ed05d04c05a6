"""Sweeps of real jobs: killed, continued by another launcher, and ended by their evaluations."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.jobs.conftest import DATA

PATIENCE = 400
"""Seconds until a command counts as hanging."""
EVERY_STEP = ("trainer.eval_steps=1", "trainer.save_steps=1", "callbacks=none")
SEARCH = (
    *("-m", "hydra/sweeper=optuna", "hydra.sweeper.sampler.seed=1", "output_dir=s"),
    "trainer.learning_rate=tag(log,interval(1e-4,1e-2))",
)


@pytest.fixture
def start(table: Path, tiny: Path, repository: Path) -> Callable[..., Any]:
    """Start a command on the tables, with the tiny model."""
    command = [sys.executable, str(repository / "launch.py"), f"model.path={tiny}", *DATA]

    def call(*arguments: str) -> Any:
        variables = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        log = Path("log").open("ab")  # noqa: SIM115 - a pipe would stay open in its processes
        return subprocess.Popen([*command, *arguments], env=variables, stdout=log, stderr=log)

    return call


def rows() -> list[dict[str, str]]:
    return list(csv.DictReader(next(Path("s").glob("sweep-*.csv")).open()))


@pytest.mark.slow
def test_a_killed_search_goes_on_by_another_launcher(start: Callable[..., Any]) -> None:
    """Its second job is killed with it, and continues from its checkpoint."""
    search = (*SEARCH, *EVERY_STEP, "trainer.max_steps=30", "hydra.sweeper.n_jobs=1")
    search += ("hydra.sweeper.n_trials=3",)
    process = start(*search, "hydra/launcher=joblib", "hydra.launcher.n_jobs=1")
    until = time.monotonic() + PATIENCE
    while True:
        process.send_signal(signal.SIGSTOP)  # so that the third job does not begin now
        if list(Path("s").glob("*/results.json")) and (at_work := running()):
            break
        process.send_signal(signal.SIGCONT)
        assert process.poll() is None and time.monotonic() < until, Path("log").read_text()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait(PATIENCE)
    (killed,) = at_work
    done = start(*search, "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5")
    assert done.wait(PATIENCE) == 0, Path("log").read_text()
    found = rows()
    assert [row["status"] for row in found] == ["done"] * 3
    assert len({row["trainer.learning_rate"] for row in found}) == 3
    assert found[1]["output_dir"] == str(killed)
    logged = [json.loads(line) for line in (killed / "metrics.jsonl").open()]
    assert [row["step"] for row in logged if "eval_loss" in row] == list(range(1, 31))
    logs = "".join(path.read_text() for path in Path("s/.submitit").rglob("*_log.out"))
    assert logs.count("sweep: job") == 2 and "sweep: job 2 of 3, s/" in logs


def running() -> list[Path]:
    """The folders of jobs that have a checkpoint and no results."""
    found = {path.parent for path in Path("s").glob("*/checkpoint-*")}
    return [path for path in found if not (path / "results.json").exists()]


@pytest.mark.slow
def test_a_bad_job_is_pruned_and_saved(start: Callable[..., Any]) -> None:
    pruner = ("sweep.pruner=threshold", "sweep.pruner_options={lower: 1.1, n_warmup_steps: 3}")
    process = start("-m", "seed=1", *EVERY_STEP, "trainer.max_steps=5000", *pruner, "output_dir=s")
    assert process.wait(PATIENCE) == 0, Path("log").read_text()
    row = rows()[0]
    assert (row["status"], row["exit_code"]) == ("pruned", "143")
    assert float(row["value"]) <= 1 and int(row["step"]) < 5000
    assert list(Path("s/0").glob("checkpoint-*"))
