"""Jobs: composes the config of each job of a sweep with this program's rules instead of Hydra's."""

import copy
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NoReturn

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig, open_dict

from trainer.config.command import Command, typed
from trainer.config.composing import compose_run
from trainer.config.groups import config_folders, options
from trainer.config.hydra_keys import is_of_sweeps
from trainer.config.overrides import is_sweep
from trainer.errors import InputError
from trainer.redaction import redacted_override
from trainer.runs.run import Run
from trainer.stores.url import joined

UNSUPPORTED = (
    "hydra/sweeper, hydra/launcher: the plugin composes configs by itself; accepted: plugins that "
    "leave this to Hydra's load_sweep_config, such as basic, optuna, joblib and submitit_local"
)


@dataclass(frozen=True)
class Job:
    """One job of a sweep."""

    command: Command
    run: Run
    label: str
    """The job's values of the swept keys, as the name of a file or folder."""
    values: dict[str, str]
    """A swept key -> the job's value, without secrets."""

    @property
    def arguments(self) -> list[str]:
        """The arguments of the job's command line."""
        return [text for text in typed(self.command) if not is_of_sweeps(text)]


@dataclass
class JobLoader(ConfigLoader):
    """Composes the jobs of a sweep, in place of Hydra's own config loader.

    Jobs are composed with the same rules as single runs (`compose_run`), which differ from Hydra's
    rules, and each job is checked before it is launched.
    """

    command: Command
    parent: str | None
    """The folder or URL in which jobs have their folders; None: each job has its default folder."""
    by_subdir: bool = False
    """Whether `hydra.sweep.subdir`, instead of the label, names the folder of a job."""
    composed: dict[tuple[str, ...], Job] = field(default_factory=dict, repr=False)
    """Swept overrides -> the job that was composed with them."""

    def job(self, overrides: Sequence[str]) -> Job:
        """The job with these values of the swept keys. Raises InputError."""
        key = tuple(overrides)
        if key not in self.composed:
            command = self._command(overrides)
            run = compose_run(command)
            self.composed[key] = Job(command, run, label_of(overrides), values_of(overrides))
        return self.composed[key]

    def _command(self, overrides: Sequence[str]) -> Command:
        left = {_key(text): text for text in overrides}
        texts = [
            left.pop(_key(text), text) if is_sweep(text) else text
            for text in self.command.overrides
        ]
        texts += left.values()
        if self.parent is not None and not self.by_subdir:
            texts = [text for text in texts if _key(text) != "output_dir"]
            texts.append(f"output_dir={joined(self.parent, label_of(overrides))}")
        return replace(self.command, multirun=False, cfg=None, overrides=texts)

    def load_sweep_config(
        self, master_config: DictConfig, sweep_overrides: Sequence[str]
    ) -> DictConfig:
        """Hydra's own settings for a job, without the job's config."""
        job = self.job(sweep_overrides)
        config = copy.deepcopy(master_config)
        with open_dict(config):
            if not self.by_subdir:
                config.hydra.sweep.subdir = os.path.relpath(
                    job.run.output_dir, str(config.hydra.sweep.dir)
                )
            config.hydra.overrides.task = list(sweep_overrides)
            config.hydra.job.override_dirname = ",".join(sorted(sweep_overrides))
        return config

    def __getstate__(self) -> dict[str, object]:
        """The state to pickle: without the composed jobs, which other processes compose again."""
        return {**self.__dict__, "composed": {}}

    def get_group_options(self, group_name: str, *_: object, **__: object) -> list[str]:
        """The options of a config group, for `glob()`."""
        return options(group_name, config_folders(self.command))

    def list_groups(self, parent_name: str) -> list[str]:
        return []

    def load_configuration(self, *_: object, **__: object) -> NoReturn:
        raise InputError(UNSUPPORTED)

    def get_search_path(self) -> NoReturn:
        raise InputError(UNSUPPORTED)

    def get_sources(self) -> NoReturn:
        raise InputError(UNSUPPORTED)

    def compute_defaults_list(self, *_: object, **__: object) -> NoReturn:
        raise InputError(UNSUPPORTED)


def label_of(overrides: Sequence[str]) -> str:
    """The swept values of a job as the name of a file, such as `learning_rate=1e-05,seed=1`."""
    parts = [f"{_key(text).rpartition('.')[2]}={text.partition('=')[2]}" for text in overrides]
    label = ",".join(re.sub(r"[^A-Za-z0-9._=-]+", "_", part).strip("_")[:60] for part in parts)
    if label == ",".join(parts) and len(label) <= 200:
        return label or "0"
    digest = hashlib.sha256("\n".join(overrides).encode()).hexdigest()[:6]
    return f"{label[:190]}-{digest}"


def values_of(overrides: Sequence[str]) -> dict[str, str]:
    """A swept key -> its value, without secrets."""
    return {_key(text): redacted_override(text).partition("=")[2] for text in overrides}


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+")
