"""Sweep: for `-m`, runs Hydra's sweeper and launcher, with a separate process for each job."""

import os
import signal
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra._internal.callbacks import Callbacks
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import HydraContext

from trainer.checkpoint import files
from trainer.config import yaml_files
from trainer.config.command import Command
from trainer.config.groups import CONFIGS
from trainer.config.program import PROGRAM, program
from trainer.config.sweeps.needed_files import check_files_of_jobs
from trainer.config.sweeps.objective import objective_of
from trainer.config.sweeps.prepared import Sweep, prepared, typed_hydra
from trainer.config.sweeps.pruning import make_pruner
from trainer.config.sweeps.results import show_results
from trainer.config.sweeps.search import is_search, prepare_search
from trainer.config.sweeps.task import JobFailed, JobTask, Stop, SweepStopped
from trainer.errors import EnvironmentFault, InputError, first_line
from trainer.launching.place import is_task_of_srun
from trainer.terminal import activity

OURS = str(CONFIGS.parent / "trainer")
"""The folder with the code of this program."""
BY_CTRL_C = 130
BY_SIGTERM = 143


def sweep(command: Command, launcher: Sequence[str]) -> int:
    """Run the jobs of a sweep; returns the exit code of the first failed job, or 0.

    `launcher` is the command that starts this program. All jobs are checked before the first one
    starts. At the end a table, a CSV file and a plot compare the jobs. Raises InputError.
    """
    if "RANK" in os.environ or "WORLD_SIZE" in os.environ or is_task_of_srun():
        accepted = f"{program(command)} -m ... alone, which starts the processes of each job itself"
        raise InputError(f"-m: found within torchrun or a similar launcher; accepted: {accepted}")
    if not command.cfg:
        activity.begin("sweep")
    found = prepared(command)
    if command.cfg:
        activity.done()
        print("---\n".join(yaml_files.dump(job.run.config) for job in found.jobs), end="")
        return 0
    check_files_of_jobs(found)
    task = _task(found, launcher)
    activity.done()
    code = _run(found, task)
    return show_results(found) or code


def _task(found: Sweep, launcher: Sequence[str]) -> JobTask:
    """The task that runs each job. Raises InputError if the objective or pruner cannot be used."""
    hydra, run = found.config.hydra, found.jobs[0].run
    settings = run.sweep
    if settings.pruner != "none":
        make_pruner(settings)
    is_basic = hydra.sweeper._target_.endswith(".BasicSweeper")
    compares = not is_basic or settings.pruner != "none" or settings.objective is not None
    objective = objective_of(run, settings) if compares else None
    total, before = len(found.jobs), 0
    if is_search(hydra) and found.loader.by_subdir:
        said = "found with a search, whose job numbers restart when it continues"
        raise InputError(f"hydra.sweep.subdir: {said}; accepted: hydra.sweep.dir alone")
    if is_search(hydra) and objective is not None:
        typed = typed_hydra(found.command)
        total = prepare_search(hydra, objective, found.records, found.arguments, typed)
        before = total - int(hydra.sweeper.n_trials)
    return JobTask(
        launcher=tuple(launcher),
        variables={PROGRAM: program(found.command)},
        records=found.records,
        total=total,
        before=before,
        objective=objective,
        is_search=not is_basic,
        settings=settings,
        stop=Stop.here(found.records.folder / "stopped"),
        loader=found.loader,
    )


def _run(found: Sweep, task: JobTask) -> int:
    """Run the sweeper; returns 0, or the exit code if the sweep was stopped."""
    _export_import_path()
    if task.stop.file.exists():  # an earlier command was stopped
        files.remove_file(task.stop.file)
    context = HydraContext(config_loader=found.loader, callbacks=Callbacks())
    with _stopping(task.stop.file) as received:
        try:
            sweeper = Plugins.instance().instantiate_sweeper(
                hydra_context=context, task_function=task, config=found.config
            )
            sweeper.sweep(found.arguments)
        except (JobFailed, SweepStopped):
            pass
        except Exception as error:
            _report_plugin_error(error)
    if received:
        return BY_CTRL_C if received[0] == signal.SIGINT else BY_SIGTERM
    return 0


def _report_plugin_error(error: Exception) -> None:
    """Raise an error of Hydra or a plugin as one line, and an error of this program unchanged.

    Raises EnvironmentFault if a launcher did not work, else InputError.
    """
    if str(error) == "No trials are completed yet.":  # the table shows that no trial succeeded
        return
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, InputError | EnvironmentFault) or frames[-1].filename.startswith(OURS):
        raise error
    line = f"{type(error).__name__}: {first_line(error)}"
    if isinstance(error, (RuntimeError, OSError)) and not isinstance(error, HydraException):
        raise EnvironmentFault(f"-m: {line}") from error
    raise InputError(f"-m: {line}; accepted: settings that the plugin can use") from error


def _export_import_path() -> None:
    """Add this program to PYTHONPATH, so that the Python processes of launchers can import it."""
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    root = str(CONFIGS.parent)
    if root not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([root, *filter(None, paths)])


@contextmanager
def _stopping(file: Path) -> Iterator[list[int]]:
    """A context in which a signal creates `file`, which stops all jobs; yields received signals."""
    received: list[int] = []

    def create_file(number: int, _: object) -> None:
        received.append(number)
        files.make_folder(file.parent)
        files.write_text(file, "")

    watched = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    before = {number: signal.signal(number, create_file) for number in watched}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
