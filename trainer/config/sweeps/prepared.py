"""Prepared: a sweep whose jobs are composed and checked before the first job starts."""

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import cast

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from trainer.config.command import Command
from trainer.config.composing import files_of, hydra_settings
from trainer.config.one_file import settings_of
from trainer.config.overrides import is_sweep
from trainer.config.sweeps.jobs import Job, JobLoader
from trainer.config.yaml_files import Value
from trainer.errors import InputError, first_line
from trainer.runs.sweep_records import Records
from trainer.stores.run_store import local_folder
from trainer.stores.url import is_in_store
from trainer.terminal.activity import doing

DEFAULT_DIR = "multirun/${now:%Y-%m-%d}/${now:%H-%M-%S}"
"""Hydra's default of hydra.sweep.dir. It is not used: it contains the time, so a continued sweep
would not find its folder.
"""
DEFAULT_SUBDIR = "${hydra.job.num}"
MOST_JOBS = 1000
"""The most jobs of a sweep: their configs are all composed and checked before the first starts."""
SILENT = {"version": 1, "root": None, "disable_existing_loggers": False}
"""Logging settings for Hydra that leave the program's own logging unchanged."""


@dataclass
class Sweep:
    """A sweep whose jobs have been checked."""

    command: Command
    config: DictConfig
    """Hydra's settings, under the key `hydra`."""
    arguments: list[str]
    """The overrides with several values."""
    loader: JobLoader
    place: str | None
    """The folder or URL in which jobs have their folders; None: each job has its default folder."""
    folder: Path
    """The local folder for the files of the sweep."""
    name: str
    jobs: list[Job]
    """All jobs of the sweep; for a search, some possible jobs, which are only checked."""

    @property
    def records(self) -> Records:
        """The records of the sweep's jobs."""
        return Records((self.folder / f".{self.name}").absolute())


def prepared(command: Command) -> Sweep:
    """The sweep of a command, with its jobs checked. Raises InputError at the first fault."""
    setup_globals()
    config = hydra_settings(command)
    hydra = config.hydra
    hydra.mode, hydra.job.name = RunMode.MULTIRUN, "tempering"
    hydra.hydra_logging, hydra.job_logging, hydra.output_subdir = SILENT, SILENT, None
    arguments = [text for text in command.overrides if is_sweep(text)]
    parent = _parent(command, config)
    by_subdir = _text(hydra.sweep, "subdir") != DEFAULT_SUBDIR
    loader = JobLoader(command, parent, by_subdir or "hydra.sweep.subdir" in typed_hydra(command))
    if loader.by_subdir and is_in_store(parent):
        raise InputError("hydra.sweep.subdir: found with a URL; accepted: output_dir=URL alone")
    params = OmegaConf.select(hydra, "sweeper.params") or {}
    space = [*(f"{key}={value}" for key, value in params.items()), *arguments]
    jobs = _checked_jobs(_jobs_to_check(space, loader, hydra), loader)
    if not loader.by_subdir:
        _refuse_same_folder(jobs)
    place = _place(loader, jobs[0])
    folder = local_folder(place or "runs")
    hydra.sweep.dir = str(folder)
    others = sorted(text for text in command.overrides if text not in arguments)
    others += [str(command.file), str(hydra.sweeper._target_)]
    text = "\n".join([*others, *sorted(space)])
    name = f"sweep-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return Sweep(command, config, arguments, loader, place, folder, name, jobs)


def _checked_jobs(space: Sequence[Sequence[str]], loader: JobLoader) -> list[Job]:
    """The jobs with these overrides. The first faulty one raises InputError."""
    jobs: list[Job] = []
    for overrides in space:
        doing("checking the jobs", f"{len(jobs):,} of {len(space):,}")
        jobs.append(loader.job(overrides))
    return jobs


def typed_hydra(command: Command) -> dict[str, str]:
    """Hydra's settings that are on the command line: key -> value."""
    pairs = (text.lstrip("+").partition("=") for text in command.hydra)
    return {key: value for key, _, value in pairs}


def _text(node: DictConfig, key: str) -> str:
    """A value as text, with its interpolations unresolved."""
    return str(cast(dict[str, object], OmegaConf.to_container(node, resolve=False))[key])


def _parent(command: Command, config: DictConfig) -> str | None:
    """The folder or URL for the folders of the jobs, from hydra.sweep.dir or output_dir."""
    if _text(config.hydra.sweep, "dir") == DEFAULT_DIR:
        return _output_dir(command, of_groups=True)
    if _output_dir(replace(command, file=None), of_groups=False) is not None:
        raise InputError("hydra.sweep.dir: found with output_dir; accepted: one of the two")
    try:
        found = str(config.hydra.sweep.dir)
    except OmegaConfBaseException as error:
        raise InputError(f"hydra.sweep.dir: {first_line(error)}; accepted: a folder") from error
    if not found or not found.isprintable():
        raise InputError(f"hydra.sweep.dir: found '{found}'; accepted: the path of a folder")
    return found


def _output_dir(command: Command, *, of_groups: bool) -> str | None:
    """The value of output_dir on the command line or in the command's file.

    None if it is not set or has several values. With `of_groups`, the user's files of config
    groups, such as an experiment, may set it too.
    """
    swept = [text for text in command.overrides if is_sweep(text)]
    if any(re.match(r"\+*output_dir=", text) for text in swept):
        return None
    kept = [text for text in command.overrides if text not in swept]
    settings = settings_of(replace(command, overrides=kept))
    values = [setting.value for setting in settings if setting.key == "output_dir"]
    if not values and of_groups and command.from_run is None:
        files = files_of(replace(command, overrides=kept))
        values = [cast(dict[str, Value], OmegaConf.to_container(files)).get("output_dir")]
    return None if not values or values[-1] is None else str(values[-1])


def _place(loader: JobLoader, job: Job) -> str | None:
    """The parent folder (or URL) of a job's folder, with interpolations and ~ resolved."""
    if loader.parent is None or loader.by_subdir:
        return loader.parent
    above = (job.run.output_url or "").rpartition("/")[0]
    return above or str(job.run.output_dir.parent)


def _jobs_to_check(space: Sequence[str], loader: JobLoader, hydra: DictConfig) -> list[list[str]]:
    """The overrides of the jobs to check before the sweep starts.

    With Hydra's basic sweeper, these are all jobs. Other sweepers choose their jobs later; for
    them, each value of each key is checked once, with the first values of all other keys.
    """
    try:
        parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(space))
        is_basic = hydra.sweeper._target_.endswith(".BasicSweeper")
        for override in parsed:
            if is_basic and override.is_interval_sweep():
                key, found = override.get_key_element(), str(override.input_line).partition("=")[2]
                accepted = "accepted: values a,b,c, or hydra/sweeper=optuna"
                raise InputError(f"{key}: found {found}; {accepted}")
        values = [_alternatives(override, is_basic) for override in parsed]
    except InputError:
        raise
    except (HydraException, ValueError) as error:  # a ValueError for range(1,5,0)
        accepted = "accepted: a,b or choice(), range() or glob()"
        raise InputError(f"-m: {first_line(error)}; {accepted}") from error
    if (count := math.prod(map(len, values))) > MOST_JOBS and is_basic:
        found = f"found {count:,} jobs or more, each of which is checked before the first starts"
        accepted = f"accepted: up to {MOST_JOBS:,}, or a search with hydra/sweeper=optuna"
        raise InputError(f"-m: {found}; {accepted}")
    if is_basic:
        return [list(job) for job in BasicSweeper.split_arguments(parsed, None)[0]]
    first = [each[0] for each in values]
    return [first] + [
        [*first[:index], other, *first[index + 1 :]]
        for index, each in enumerate(values)
        for other in each[1:]
    ]


def _alternatives(override: Override, with_all: bool) -> list[str]:
    """One override for each value to check.

    The values of an interval are its two ends. Those of a range are its first and last value, or
    with `with_all` all its values.
    """
    key, value = override.get_key_element(), override.value()
    if isinstance(value, IntervalSweep):
        return [f"{key}={value.start}", f"{key}={value.end}"]
    if not override.is_sweep_override():
        return [f"{key}={override.get_value_element_as_str()}"]
    # one more than is accepted: a range may have billions of values
    most = MOST_JOBS + 1 if with_all else None
    found = [f"{key}={each}" for each in islice(override.sweep_string_iterator(), most)]
    if isinstance(value, RangeSweep) and not with_all:
        found = list(dict.fromkeys([*found[:1], *found[-1:]]))
    if not found:
        text = str(override.input_line).partition("=")[2]
        raise InputError(f"{key}: no values in {text}; accepted: one or more")
    return found


def _refuse_same_folder(jobs: Sequence[Job]) -> None:
    seen = set()
    for job in jobs:
        if job.run.output_dir in seen:
            found = f"two jobs of the sweep would write to '{job.run.place}'"
            raise InputError(f"output_dir: {found}; accepted: different jobs, and no run_name")
        seen.add(job.run.output_dir)
