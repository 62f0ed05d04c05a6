"""Task: the function that Hydra's launchers call for each job, perhaps in other processes."""

import hashlib
import os
import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from trainer.config.child import run_child
from trainer.config.sweeps.jobs import Job, JobLoader
from trainer.config.sweeps.pruning import Watch
from trainer.runs.ordered_json import ordered_json
from trainer.runs.run import Run
from trainer.runs.sweep_records import JobRecord, Objective, Records, evaluations
from trainer.runs.sweep_results import measured
from trainer.runs.sweep_settings import SweepSettings
from trainer.terminal.console import make_console, show


class JobFailed(RuntimeError):
    """A job of a sweep has ended without a result."""


class SweepStopped(BaseException):
    """The user has stopped the sweep. Not an Exception, so that launchers do not catch it."""


@dataclass(frozen=True)
class Stop:
    """A stop request for the jobs of a sweep, which may run in other processes."""

    file: Path
    """The file that exists once the sweep has been stopped."""
    process: int
    """The id of the process that runs the sweep."""
    machine: str
    """The host name of the machine that runs the sweep."""

    @classmethod
    def here(cls, file: Path) -> "Stop":
        """The stop request for a sweep that runs in this process."""
        return cls(file, os.getpid(), socket.gethostname())

    def requested(self) -> bool:
        """Whether the sweep was stopped, or its process has ended (if it is on this machine)."""
        return self.file.exists() or (self.machine == socket.gethostname() and not self._runs())

    def _runs(self) -> bool:
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True


@dataclass(frozen=True)
class JobTask:
    """Runs one job in a separate process, which may start many ranks, and records the result."""

    launcher: tuple[str, ...]
    """The command that starts this program."""
    variables: Mapping[str, str]
    """The environment variables to set for the job."""
    records: Records
    total: int
    """The total number of jobs of the sweep."""
    before: int
    """The number of jobs that earlier commands have finished."""
    objective: Objective | None
    """The result by which jobs are compared; None if the sweeper needs none."""
    is_search: bool
    """Whether the sweeper is a search; then a failed job must raise an exception."""
    settings: SweepSettings
    stop: Stop
    loader: JobLoader

    def __call__(self, config: DictConfig) -> float | None:
        """Run the job, unless it is already finished; returns the objective's value for it.

        Raises JobFailed for a failed job of a search. If the sweep was stopped, raises SweepStopped
        in the sweep's own process, and JobFailed in another process.
        """
        hydra = HydraConfig.get()
        chosen = self.loader.job(list(hydra.overrides.task))
        run, arguments = chosen.run, chosen.arguments
        if self.loader.by_subdir:
            folder = os.path.relpath(hydra.runtime.output_dir)
            run = replace(run, output_dir=Path(folder))
            arguments.append(f"output_dir={folder}")
        job = _record(chosen, run, self.before + hydra.job.num)
        with self.records.locked(job.label):
            earlier = self.records.get(job.label)
            if earlier is None or not _is_same(earlier, job, run):
                earlier = self._run(job, run, arguments)
            else:
                self._show(earlier, "finished earlier")
        return self._value(earlier)

    def _run(self, job: JobRecord, run: Run, arguments: list[str]) -> JobRecord:
        if self.stop.requested():
            raise self._stopped()
        self._show(job, run.place)
        self.records.put(job)
        watch = None
        if self.objective is not None and self.settings.pruner != "none":
            watch = Watch(self.settings, self.objective, self.records, job)
        pruned: list[bool] = []

        def should_stop() -> bool:
            if watch is not None and watch.should_prune():
                pruned.append(True)
            return bool(pruned) or self.stop.requested()

        code, signalled = run_child([*self.launcher, *arguments], self.variables, should_stop)
        job = _ended(job, run, code, bool(pruned) and code == 143, self.objective)
        self.records.put(job)
        if signalled or (self.stop.requested() and code in (130, 143)):
            raise self._stopped(signalled)
        return job

    def _stopped(self, signalled: bool = False) -> BaseException:
        """The exception to raise when the sweep was stopped.

        It is a JobFailed in a process other than the sweep's own, since the launcher still collects
        the results of other jobs there. If a signal stopped a job that submitit runs, the signal is
        passed to submitit only now: the job has saved a checkpoint, and submitit may queue it
        again.
        """
        if os.getpid() == self.stop.process:
            return SweepStopped()
        if signalled and "SUBMITIT_EXECUTOR" in os.environ:
            os.kill(os.getpid(), signal.SIGUSR1)
        return JobFailed("the sweep was stopped")

    def _value(self, job: JobRecord) -> float | None:
        if not self.is_search:
            return job.value
        if job.exit_code != 0 and not job.pruned:
            raise JobFailed(f"{job.output_dir}: {job.status}")
        if self.objective is not None and job.value is None:
            found = f"the evaluations of {job.output_dir} gave no {self.objective.name}"
            raise JobFailed(f"sweep.objective: {found}")
        return job.value

    def _show(self, job: JobRecord, words: str) -> None:
        show(make_console(), f"sweep: job {job.number + 1} of {self.total}, {words}")


def _record(job: Job, run: Run, number: int) -> JobRecord:
    digest = hashlib.sha256(ordered_json(run.config).encode())
    return JobRecord(
        label=job.label,
        values=job.values,
        output_dir=run.place,
        config=digest.hexdigest(),
        number=number,
    )


def _is_same(earlier: JobRecord, job: JobRecord, run: Run) -> bool:
    """Whether an earlier job has the same config as this one, is finished, and has its results."""
    has_results = earlier.exit_code != 0 or (run.output_dir / "results.json").is_file()
    return run.job == "train" and earlier.is_final and has_results and earlier.config == job.config


def _ended(
    job: JobRecord, run: Run, code: int, pruned: bool, objective: Objective | None
) -> JobRecord:
    facts: dict[str, Any] = {}
    if pruned and objective is not None:
        found = objective.best(evaluations(run.output_dir, objective))
        step, value = found or (None, None)
        facts = {"metric": f"eval_{objective.name}", "step": step, "value": value}
        facts["greater_is_better"] = objective.greater_is_better
    elif code == 0:
        facts = measured(run, objective)
    return replace(job, exit_code=code, pruned=pruned, **facts)
