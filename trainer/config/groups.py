"""Config groups: their options, and the choices that a command makes or implies."""

import re
from collections.abc import Iterator
from pathlib import Path

from trainer.config.command import Command
from trainer.config.overrides import Setting
from trainer.errors import InputError, nearest

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

DATA_KEYS = ("path", "name", "train", "validation", "test")
"""Keys of `dataset` that imply dataset=files, both on the command line and in the user's files."""

MIXTURE = "dataset.mixture"
"""The key that implies dataset=mixture."""

QUICKSTART_GROUPS = ("dataset", "model", "recipe", "job")
"""If the user chooses an option of one of these groups, the run is no longer the quickstart. Then
the quickstart's training settings (configs/experiment/quickstart.yaml) do not apply.
"""

Groups = dict[str, str | None]
"""A config group -> the chosen option; None if the user chose no option (`GROUP=null`)."""


def config_folders(command: Command) -> list[Path]:
    """The folders of configs to search, the user's own first."""
    own = [command.config_dir.resolve()] if command.config_dir else []
    return [*own, CONFIGS]


def options(group: str, folders: list[Path]) -> list[str]:
    """The options of a config group: the names of its files."""
    names = {
        path.relative_to(folder / group).with_suffix("").as_posix()
        for folder in folders
        for path in yaml_files_in(folder / group)
        if path.is_file()
    }
    return sorted(names)


def yaml_files_in(folder: Path) -> Iterator[Path]:
    """Yield the YAML files below a folder, except hidden ones.

    While a file is edited, Emacs keeps a broken link next to it (`.#own.yaml`).
    """
    for path in folder.rglob("*.yaml"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and not path.is_dir():
            yield path


def primary_file(command: Command, folders: list[Path]) -> Path:
    """The primary config file, which Hydra reads first. Raises InputError if there is none."""
    files = [folder / f"{command.config_name}.yaml" for folder in folders]
    for file in files:
        if file.is_file():
            return file
    places = ", ".join(map(str, folders))
    found = f"no '{command.config_name}.yaml' in {places}"
    raise InputError(f"--config-name: {found}; accepted: a file there")


def is_choice(setting: Setting, folders: list[Path]) -> bool:
    """Whether an override chooses an option of a config group; mappings are merged instead."""
    is_group = any((folder / setting.key).is_dir() for folder in folders)
    return is_group and "." not in setting.key and not isinstance(setting.value, dict)


def chosen_option(setting: Setting, folders: list[Path]) -> str | None:
    """The option that an override chooses; None for null. Raises InputError for an unknown one."""
    group, value = setting.key, setting.value
    known = options(group, folders)
    if value is None or (isinstance(value, str) and value in known):
        return value
    hint = nearest(str(value), known)
    if not re.fullmatch(r"[A-Za-z0-9_/-]+", str(value)):
        hint = ""  # the value is probably a path
    found = setting.text.partition("=")[2]
    has_path = group in ("model", "dataset", "tokenizer")
    path = f", or {group}.path={found}" if has_path else ""
    raise InputError(f"{group}: no option '{found}'{hint}; accepted: {', '.join(known)}{path}")


def with_implied(groups: Groups, keys: set[str], command: Command, folders: list[Path]) -> Groups:
    """The choices in `groups`, with the choices that they and the overridden `keys` imply.

    The comments in configs/config.yaml explain the rules to the user.
    """
    if primary_file(command, folders).parent != CONFIGS or "experiment" in groups:
        return groups
    implied = dict(groups)
    sections = {".".join(key.split(".")[:2]) for key in keys}
    if "dataset" not in groups and MIXTURE in sections:
        implied["dataset"] = "mixture"
    elif "dataset" not in groups and keys & {f"dataset.{key}" for key in DATA_KEYS}:
        implied["dataset"] = "files"
    if any(group in implied for group in QUICKSTART_GROUPS) or "model.path" in keys:
        implied["experiment"] = None
    return implied
