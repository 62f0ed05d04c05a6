"""The number of ranks on a machine, accelerate's settings, and a rank's log."""

import logging
import os
import random
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from trainer.config.command import parse
from trainer.config.composing import compose_run, hand_over, handed_over_run
from trainer.errors import InputError
from trainer.launching.accelerate_config import check_accelerate_config
from trainer.launching.identity import difference, identity
from trainer.launching.launcher import num_processes
from trainer.launching.place import WORKER
from trainer.launching.rank_log import RankLog
from trainer.runs.run import Run


def composed(*arguments: str) -> Run:
    return compose_run(parse(arguments))


def test_as_many_as_there_are_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.accelerator.is_available():
        assert num_processes(composed()) == 1
        assert num_processes(composed("launch.num_processes=5")) == 5
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert num_processes(composed()) == 2
    assert num_processes(composed("launch.num_processes=1")) == 1
    with pytest.raises(InputError, match="found 3; accepted: auto, or 1 to 2, the GPUs"):
        num_processes(composed("launch.num_processes=3"))
    typed = ("job=predict", "model.path=x")
    assert num_processes(composed(*typed, "input.text=hello")) == 1
    assert num_processes(composed(*typed, "input.file=x.jsonl")) == 2
    with pytest.raises(InputError, match="input.text: found -"):
        num_processes(composed(*typed, "input.text=-", "launch.num_processes=2"))
    pair = ("input.text=hello", "input.text_pair=-")
    with pytest.raises(InputError, match=r"input\.text_pair: found -, for several processes"):
        num_processes(composed(*typed, *pair, "launch.num_processes=2"))


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("ACCELERATE_USE_FSDP", "true", "distributed_type: FSDP; .* launch.strategy"),
        ("ACCELERATE_USE_DEEPSPEED", "true", "distributed_type: DEEPSPEED"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "dynamo_backend: found .* trainer.compile"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "gradient_accumulation_steps: found 4"),
        (
            "ACCELERATE_MIXED_PRECISION",
            "bf16",
            "mixed_precision: .* trainer.precision=bf16 instead",
        ),
    ],
)
def test_settings_of_accelerate_are_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(InputError, match=f"accelerate config: {said}"):
        check_accelerate_config(composed())


def test_settings_of_accelerate_that_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "NO")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    check_accelerate_config(composed("trainer.precision=bf16"))


def test_ranks_differ_by_name() -> None:
    first = identity(composed())
    assert identity(composed("launch.timeout=5")) == first
    said = difference(first, identity(composed("trainer.learning_rate=1")))
    assert said == "trainer.learning_rate is 1.0, not 0.0005"
    assert (
        difference(first, {**first, "the code": "x"}) == f"the code is x, not {first['the code']}"
    )


def test_a_worker_gets_the_run_that_was_composed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "from-the-environment")
    secret = "model.config={hubToken: ${oc.env:MY_TOKEN}}"
    data = ("dataset.train=x.tsv", "dataset.columns={0: text, 1: label}", "output_dir=1e5")
    run = composed(*data, secret, "recipe.text=a\udc80b", "trainer.learning_rate=1e-5", "seed=3")
    monkeypatch.setenv(WORKER, hand_over(run))
    handed = handed_over_run()
    assert replace(handed, origin=run.origin) == run
    assert handed.model.config == {"hubToken": "from-the-environment"}
    assert "from-the-environment" not in str(handed.config) + str(handed.overrides)


def test_a_worker_gets_a_run_that_is_longer_than_a_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    labels = ", ".join(f"a_long_name_of_a_label_{number}" for number in range(5_000))
    (tmp_path / "run.yaml").write_text(f"recipe: {{labels: [{labels}]}}\n")
    run = composed(str(tmp_path / "run.yaml"), "dataset.train=x.csv", "seed=3")
    assert len(str(run.origin)) > 131_072
    assert len(hand_over(run)) < 120_000
    monkeypatch.setenv(WORKER, hand_over(run))
    assert replace(handed_over_run(), origin=run.origin) == run
    subprocess.run([sys.executable, "-c", ""], check=True)  # it fits into the environment
    huge = replace(run, origin={"tree": random.Random(0).randbytes(200_000).hex()})
    with pytest.raises(InputError, match=r"^config: 400,0.. characters, too many to pass"):
        hand_over(huge)


def test_rank_log_is_a_line_a_warning(tmp_path: Path) -> None:
    log = RankLog(tmp_path / "run", 3)
    assert not (tmp_path / "run").exists()
    for text in ("one\ntwo", "three"):
        log.handle(logging.LogRecord("trainer", logging.WARNING, "", 0, text, (), None))
    lines = (tmp_path / "run" / "rank-3.log").read_text().splitlines()
    assert [line.partition(" WARNING ")[2] for line in lines] == [
        "trainer: one two",
        "trainer: three",
    ]


def test_nothing_outlives_who_started_it(repository: Path, tmp_path: Path) -> None:
    """When the parent is killed, its long-running child ends too."""
    child = (
        "import os, pathlib, time; from trainer.launching import parent_process; "
        "parent_process.end_with_parent(); "
        "pathlib.Path('pid').write_text(str(os.getpid())); time.sleep(3600)"
    )
    parent = (
        "import sys; from trainer.config.child import run_child;"
        f"run_child([sys.executable, '-c', {child!r}])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", parent], cwd=tmp_path, env={"PYTHONPATH": str(repository)}
    )
    pid = tmp_path / "pid"
    while not (pid.exists() and pid.read_text()):
        assert process.poll() is None
        time.sleep(0.02)
    orphan = psutil.Process(int(pid.read_text()))
    process.kill()
    process.wait()
    deadline = time.monotonic() + 100
    while _runs(orphan):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_signal_while_modules_are_imported_is_one_line(repository: Path, tmp_path: Path) -> None:
    """The signal arrives during launch.py's first import, of a file that replaces the module."""
    (tmp_path / "yaml.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGUSR1)\n")
    done = subprocess.run(
        [sys.executable, str(repository / "launch.py"), "--help"],
        env={"PYTHONPATH": f"{tmp_path}{os.pathsep}{repository}"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (143, "stopped by SIGUSR1: not saved\n")


def _runs(process: psutil.Process) -> bool:
    """Whether a process, not another one that got its number later, runs and is no zombie."""
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
