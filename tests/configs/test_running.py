"""From the checked config to the job: exit codes, sweeps, the console script's function."""

import csv
import errno
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import launch
from trainer.config.child import run_child
from trainer.config.command import parse
from trainer.config.composing import compose_run
from trainer.config.sweeps import task
from trainer.errors import EnvironmentFault, InputError, Interrupted, NumericsError
from trainer.runs.run import Run


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Run], int]], None]:
    """Replace the train job by a function."""

    def put(function: Callable[[Run], int]) -> None:
        module = ModuleType("trainer.jobs.train")
        module.run = function  # type: ignore[attr-defined]
        module.prepare = lambda run: True  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "trainer.jobs.train", module)

    return put


def test_job_gets_the_run_and_gives_the_code(job: Any, ask: Callable[..., Any]) -> None:
    seen: list[Run] = []
    job(lambda run: seen.append(run) or 143)
    answer = ask("seed=3", "trainer.max_steps=2")
    assert (answer.code, answer.err) == (143, "")
    assert seen[0].seed == 3 and seen[0].overrides == ("seed=3", "trainer.max_steps=2")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("data.csv: no rows;\naccepted: some"), 2),
        (EnvironmentFault("runs/a: in use"), 3),
        (OSError(errno.ENOSPC, "No space left on device", "runs/a"), 3),
        (NumericsError("loss: nan at step 3"), 4),
        (KeyboardInterrupt(), 130),
        (Interrupted("stopped by SIGTERM: saved runs/a/checkpoint-3", 143), 143),
    ],
)
def test_failures_are_one_line(
    job: Any, ask: Callable[..., Any], error: BaseException, code: int
) -> None:
    def fail(run: Run) -> int:
        raise error

    job(fail)
    answer = ask()
    assert answer.code == code
    assert answer.err.count("\n") == 1
    # stopping a run is not an error
    assert answer.err.startswith("error: ") is (code not in (130, 143))


def test_a_bug_keeps_its_traceback(job: Any) -> None:
    def fail(run: Run) -> int:
        raise KeyError("a bug")

    job(fail)
    with pytest.raises(KeyError):
        launch.main([])


def test_outer_launcher_sets_the_processes(
    job: Any, ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    job(lambda run: 0)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert ask("launch.num_processes=1").code == 0
    refusal = ask("launch.num_processes=2")
    assert refusal.code == 2 and "but 1 were started on this machine" in refusal.err
    assert "-m: found within torchrun" in ask("-m", "seed=1,2").err
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    for name, value in (("PROCID", "0"), ("NTASKS", "2"), ("STEP_ID", "0")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert "-m: found within torchrun" in ask("-m", "seed=1,2").err  # srun sets neither


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The arguments of every process that a sweep would start; each exits with 0."""
    commands: list[list[str]] = []

    def note(command: list[str], *_: object) -> tuple[int, bool]:
        commands.append(command[2:])
        return 0, False

    monkeypatch.setattr(task, "run_child", note)
    return commands


def test_sweep_is_a_process_a_job(ask: Callable[..., Any], started: list[list[str]]) -> None:
    text = "input.text=a, b"
    answer = ask("-m", "seed=1,2", "job=predict", "model.path=x", "model.revision='v'", text)
    assert answer.code == 0
    assert [command[0] for command in started] == ["seed=1", "seed=2"]
    assert all(command[-1] == text for command in started)


def test_sweep_has_a_folder_a_job(ask: Callable[..., Any], started: list[list[str]]) -> None:
    ask("--multirun", "trainer.learning_rate=1e-5,3e-5", "seed=range(1,3)", "output_dir=runs/s")
    assert [command[-1] for command in started] == [
        f"output_dir=runs/s/learning_rate={rate},seed={seed}"
        for rate in ("1e-05", "3e-05")
        for seed in (1, 2)
    ]
    runs = [compose_run(parse(command)) for command in started]
    assert len({run.output_dir for run in runs}) == 4


def test_sweep_over_groups_and_choices(ask: Callable[..., Any], started: list[list[str]]) -> None:
    ask("-m", "dataset=glob([mn*,mr*])", "model=choice(bert,distilbert)")
    assert started == [
        [f"dataset={data}", f"model={model}"]
        for data in ("mnli", "mrpc")
        for model in ("bert", "distilbert")
    ]


def test_sweep_is_checked_before_its_first_job(
    refused: Callable[..., str], started: list[list[str]]
) -> None:
    assert refused("-m", "seed=1,2,x").startswith("seed: found 'x'")
    assert refused("-m", "dataset=sst2,nope").startswith("dataset: no option 'nope'")
    assert "two jobs" in refused("-m", "seed=1,2", "run_name=same")
    assert "no values" in refused("-m", "dataset=glob(zzz*)")
    assert refused("-m", "seed=range(1,5,0)").startswith("-m: range() arg 3 must not be zero")
    assert started == []


def test_sweep_prints_its_configs(ask: Callable[..., Any], started: list[list[str]]) -> None:
    assert ask("-m", "seed=1,2", "--cfg", "job").out.count("run_name:") == 2
    assert started == []


def test_sweep_goes_on_after_a_failure(
    ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter([(0, False), (4, False), (3, False), (143, True), (0, False)])
    monkeypatch.setattr(task, "run_child", lambda *_: next(left))
    answer = ask("-m", "seed=1,2,3,4,5", "output_dir=s")
    assert answer.code == 4
    assert answer.out.count("sweep: job") == 4  # the fourth job and the sweep were stopped
    table = [line.split("  ") for line in answer.out.partition("seed  status  ")[2].splitlines()]
    states = ["done", "numbers failed", "environment failed", "stopped", "not started"]
    assert [row[0] for row in table[1:6]] == ["1", "2", "3", "4", "5"]
    assert [set(states) & {cell.strip() for cell in row} for row in table[1:6]] == [
        {state} for state in states
    ]


def test_sweep_names_its_best_job(ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"1": ("eval_accuracy", 0.5), "2": ("eval_accuracy", 0.75), "3": ("eval_loss", 0.1)}

    def train(command: list[str], *_: object) -> tuple[int, bool]:
        folder = Path(command[-1].removeprefix("output_dir="))
        metric, value = found[command[2].removeprefix("seed=")]
        best = {"metric": metric, "value": value, "step": 8}
        folder.mkdir(parents=True, exist_ok=True)  # launchers create it
        (folder / "results.json").write_text(json.dumps({"best": best, "metrics": {}}))
        return 0, False

    monkeypatch.setattr(task, "run_child", train)
    out = ask("-m", "seed=1,2", "output_dir=s").out
    assert "best        s/seed=2 (eval_accuracy 0.7500)" in out
    file = Path(re.search(r"written to +(s/sweep-[0-9a-f]{8}\.csv)", out)[1])  # type: ignore[index]
    rows = list(csv.DictReader(file.open()))
    assert [(row["seed"], row["status"], row["value"]) for row in rows] == [
        ("1", "done", "0.5"),
        ("2", "done", "0.75"),
    ]
    assert "best" not in ask("-m", "seed=1,3", "output_dir=t").out  # nothing to compare


def test_sweep_in_real_processes(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "none.csv").write_text("text,label\n")
    command = [sys.executable, str(repository / "launch.py"), "-m", "model.path=nowhere"]
    command += ["dataset.train=none.csv", "seed=3", "+output_dir=x"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stdout.startswith("sweep: job 1 of 1, x/0\n")
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: ")


def test_child_gives_its_code_and_is_told_to_stop() -> None:
    assert run_child([sys.executable, "-c", "raise SystemExit(4)"]) == (4, False)
    kill = "import os; os.kill(os.getpid(), 9)"
    assert run_child([sys.executable, "-c", kill]) == (137, False)
    stop = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "os.kill(os.getppid(), signal.SIGTERM)\n"
        "time.sleep(60)\n"
    )
    assert run_child([sys.executable, "-c", stop]) == (143, True)


def test_a_signal_while_a_child_is_being_started_reaches_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It neither ends this process, which would leave the child alone, nor is it lost."""

    class Starting(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *given: Any, **options: Any) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            super().__init__(*given, **options)
            os.kill(os.getpid(), signal.SIGUSR1)

    monkeypatch.setattr(subprocess, "Popen", Starting)
    asleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    code, stopped = run_child(asleep)
    assert stopped and code in (128 + signal.SIGTERM, 128 + signal.SIGUSR1)


def test_launches_from_any_folder(repository: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(repository / "launch.py"), "--cfg", "job", "trainer.max_steps=3"],
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "max_steps: 3" in done.stdout
