"""Composed files: lets Hydra compose the YAML files of the config folders."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from trainer.config import yaml_files
from trainer.config.command import Command
from trainer.config.groups import CONFIGS, DATA_KEYS, Groups, primary_file, yaml_files_in
from trainer.config.hydra_keys import check_hydra_error
from trainer.config.interpolations import check_defaults
from trainer.config.overrides import read_override
from trainer.config.saved_recipe import OF_A_MODEL
from trainer.config.yaml_files import Value
from trainer.errors import InputError, first_line

CHOSEN_BY_THE_USER = {
    job: ("model", "recipe", "dataset") for job in (*OF_A_MODEL, "generate", "chat", "plan")
}
"""Job -> the sections that stay empty unless the user chooses an option for them."""

DEFAULT_METRICS = "classification"
"""The option of `metrics` in configs/config.yaml; recipes with other metrics do not use it."""

DEFAULT_DATASET = "trainer.data.python_stdlib.PythonStdlib"
"""The class of the option of `dataset` in configs/config.yaml."""


def compose_files(
    command: Command, groups: Groups, folders: list[Path]
) -> tuple[DictConfig, dict[str, str]]:
    """The config composed from the files in `folders`, and the chosen option of each group.

    Sections in CHOSEN_BY_THE_USER are empty if the user has chosen no option. Raises InputError.
    """
    own = _check_folders(command, folders)
    config = _compose(command, groups, folders, own)
    if isinstance(config.get("experiment"), DictConfig):
        raise _not_global(config.hydra.runtime.choices.get("experiment"), folders)
    if "dataset" not in groups and _names_files(config):
        groups = {"experiment": None, **groups, "dataset": "files"}
        config = _with_files(command, groups, folders, config, own)
    chosen = {g: o for g, o in config.pop("hydra").runtime.choices.items() if "hydra/" not in g}
    if "metrics" not in groups and chosen.get("metrics") == DEFAULT_METRICS:
        chosen.pop("metrics")  # it is the default; the user has not chosen it
    for section in CHOSEN_BY_THE_USER.get(config.get("job", "train"), ()):
        if section not in groups:
            config[section] = {}
            chosen.pop(section, None)
    files = str((config.get("dataset") or {}).get("_target_")).endswith(".Files")
    if files and config.get("job") in CHOSEN_BY_THE_USER:
        config["dataset"]["validation_fraction"] = 0.0  # these jobs hold out no rows
    return config, {group: option for group, option in chosen.items() if option}


def compose_hydra(
    command: Command, groups: Groups, folders: list[Path], file_values: Mapping[str, Value]
) -> DictConfig:
    """Hydra's own settings, under the key `hydra`.

    The command takes precedence over `file_values`, which take precedence over the folders. Raises
    InputError.
    """
    own = _check_folders(command, folders)
    config = _compose(command, groups, folders, own, command.hydra)
    if file_values:
        _merge(config, file_values, command.hydra)
    for key in [key for key in config if key != "hydra"]:
        del config[key]
    return config


def _merge(config: DictConfig, file_values: Mapping[str, Value], typed: Sequence[str]) -> None:
    """Merge Hydra's settings of a file into the config; those of the command take precedence."""
    try:
        config.hydra = OmegaConf.merge(config.hydra, file_values)
        for setting in map(read_override, typed):
            if "/" not in setting.key:
                OmegaConf.update(config, setting.key, setting.value)
    except OmegaConfBaseException as error:
        raise InputError(
            f"hydra: {first_line(error)}; accepted: the settings in --cfg hydra"
        ) from error


def _names_files(config: DictConfig) -> bool:
    """Whether the config has keys of dataset=files, but not the class that reads them."""
    found = config.get("dataset")
    target = found.get("_target_") if isinstance(found, DictConfig) else ""
    return target in (None, DEFAULT_DATASET) and any(found.get(key) for key in DATA_KEYS)


def _with_files(
    command: Command, groups: Groups, folders: list[Path], config: DictConfig, own: bool
) -> DictConfig:
    """The config with the option dataset=files; the user's own keys take precedence over it."""
    if config.dataset.get("_target_") is not None:
        return _compose(command, groups, folders, own)
    files = OmegaConf.load(CONFIGS / "dataset" / "files.yaml")
    config["dataset"] = OmegaConf.merge(files, config.dataset)
    return config


def _not_global(option: str, folders: list[Path]) -> InputError:
    """The error for an experiment without the header that makes its keys global."""
    files = [folder / "experiment" / f"{option}.yaml" for folder in folders]
    file = next((file for file in files if file.is_file()), files[0])
    accepted = "accepted: the line '# @package _global_' above its first key"
    return InputError(
        f"experiment={option}: {file} does not say that its keys are global; {accepted}"
    )


def _check_folders(command: Command, folders: list[Path]) -> bool:
    """Check the files in the user's folders; returns whether the primary file is one of them."""
    primary = primary_file(command, folders)
    for folder in folders[:-1]:
        _check_files(folder, primary)
    return primary.parent != CONFIGS


def _check_files(folder: Path, primary: Path) -> None:
    """Raise InputError for YAML files that are too large or refer to files outside the folders.

    This must happen before Hydra reads the files.
    """
    groups = [path for path in CONFIGS.iterdir() if path.is_dir()]
    files = [path for group in groups for path in yaml_files_in(folder / group.name)]
    for path in [primary, *files]:
        yaml_files.check(path)
        if path.is_relative_to(folder):
            check_defaults(yaml_files.read(path), path)


@contextmanager
def opened_hydra(folders: list[Path]) -> Iterator[None]:
    """A context in which Hydra searches these folders."""
    UserFolders.folders = folders[:-1]
    Plugins.instance().register(UserFolders)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        yield


def _compose(
    command: Command, groups: Groups, folders: list[Path], own: bool, typed: Sequence[str] = ()
) -> DictConfig:
    """The composed files, including Hydra's own settings.

    `own` tells whether the primary file is the user's. `typed` are overrides of Hydra's settings.
    """
    try:
        with opened_hydra(folders):
            known = set(groups)
            if own:  # groups that are not in the file's defaults list must be added with a "+"
                known = set(_composed(command, []).hydra.runtime.choices)
            picked = [f"{'' if g in known else '+'}{g}={o}" for g, o in groups.items() if o]
            dropped = [f"~{g}" for g, option in groups.items() if option is None and g in known]
            return _composed(command, [*picked, *dropped, *typed])
    except yaml.MarkedYAMLError as error:
        raise InputError(yaml_files.describe_error(error)) from error
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        check_hydra_error(str(error))
        raise InputError(f"config: {first_line(error)}") from error


class UserFolders(SearchPathPlugin):
    """Makes Hydra search the user's config folder before that of this package."""

    folders: ClassVar[list[Path]] = []

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in self.folders:
            search_path.prepend("user", f"file://{folder}", SearchPathQuery(provider="main"))


def _composed(command: Command, overrides: list[str]) -> DictConfig:
    with warnings.catch_warnings(action="ignore"):  # e.g. about a defaults list without _self_
        config = compose(command.config_name, overrides, return_hydra_config=True)
    OmegaConf.set_readonly(config.hydra, False)
    OmegaConf.set_struct(config, False)
    return config
