"""One file: reads a YAML file whose keys are those of a command line (`tempering run.yaml`)."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trainer.config import yaml_files
from trainer.config.command import Command
from trainer.config.groups import CONFIGS
from trainer.config.hydra_keys import FOR_RUNS, check_hydra_key, is_of_hydra
from trainer.config.overrides import Setting, is_sweep, read_override
from trainer.config.received import check_received
from trainer.config.yaml_files import Value
from trainer.errors import InputError

HYDRA = "hydra"
"""The key of Hydra's own settings."""
SECTIONS_OF_HYDRA = ("hydra.sweep", "hydra.run", "hydra.job")
"""Mappings in Hydra's settings whose keys are checked one by one, since only some are accepted."""
REPLACED = ("dataset", "recipe", "metrics", "callbacks")
"""Sections that a file replaces, instead of merging them, if it has a `_target_` for them."""


def settings_of(command: Command) -> list[Setting]:
    """The settings of a command: first those of its file, then those of the command line.

    Raises InputError if the file has an entry that only the command line may have.
    """
    typed = [read_override(text) for text in command.overrides if not is_sweep(text)]
    if command.file is None:
        return [read_override(text) for text in command.overrides]
    values = yaml_files.read(command.file)
    _check(values, command.file, typed)
    found = [s for key, value in values.items() for s in _settings(str(key), value)]
    return found + [read_override(text) for text in command.overrides]


def hydra_of_file(command: Command) -> tuple[list[str], dict[str, Any]]:
    """Hydra's settings in the file of a command: overrides that choose plugins, and values."""
    values = yaml_files.read(command.file) if command.file else {}
    chosen = [f"{key}={option}" for key, option in values.items() if _chooses_plugin(key)]
    return chosen, values.get(HYDRA) or {}


def _settings(key: str, value: Value) -> Iterator[Setting]:
    if is_of_hydra(key):
        return
    text = f"{key}={value}"
    is_group = (CONFIGS / key).is_dir() and "." not in key
    if not isinstance(value, dict) or not is_group:
        yield Setting(key, value, text, in_file=True)
    elif key in REPLACED and _names_class(value):
        # choose no option, whose values would be merged
        yield Setting(key, None, text, in_file=True)
        yield Setting(key, value, text, in_file=True)
    else:
        for name, each in value.items():
            yield Setting(f"{key}.{name}", each, text, in_file=True)


def _names_class(values: Mapping[str, Value]) -> bool:
    """Whether a section, or one of its entries, has a `_target_`."""
    return "_target_" in values or any(
        isinstance(each, dict) and "_target_" in each for each in values.values()
    )


def _chooses_plugin(key: object) -> bool:
    return isinstance(key, str) and is_of_hydra(key) and key != HYDRA


def _check(values: Mapping[str, Value], file: Path, typed: list[Setting]) -> None:
    """Raise InputError for entries that a file of unknown origin or a single file must not have."""
    if "defaults" in values:
        accepted = "accepted: GROUP: OPTION, or the file in a folder for --config-dir"
        raise InputError(f"{file}: found a defaults list; {accepted}")
    if "from" in values:
        raise InputError(f"{file}: found from; accepted: from=FOLDER on the command line")
    for key in filter(_chooses_plugin, values):
        _check_hydra_key(key, file)
    hydra = values.get(HYDRA) or {}
    if not isinstance(hydra, dict):
        raise InputError(f"{file}: hydra: found {hydra!r}; accepted: a mapping {{key: value}}")
    for key in _leaves(hydra, HYDRA):
        _check_hydra_key(key, file)
    trusted = next((s.value for s in typed if s.key == "trusted_packages"), None)
    packages = [str(each) for each in trusted] if isinstance(trusted, list) else []
    given, deleted = ({s.key for s in typed if s.deleted is gone} for gone in (False, True))
    # keys are checked separately, since several of them may set entries of the same section
    for key, value in values.items():
        check_received(_nested(str(key), value), file, given, deleted, packages)


def _check_hydra_key(key: str, file: Path) -> None:
    """Raise InputError for a key that has no effect here, or none in a file."""
    check_hydra_key(key)
    if key in FOR_RUNS:
        accepted = f"accepted: {key}=VALUE on the command line"
        raise InputError(f"{file}: found {key}; {accepted}")


def _nested(key: str, value: Value) -> dict[str, Value]:
    """The value of a dotted key as nested mappings: {"launch": {"rendezvous": value}}."""
    for part in reversed(key.split(".")):
        value = {part: value}
    assert isinstance(value, dict)
    return value


def _leaves(values: Mapping[str, Value], where: str) -> Iterator[str]:
    for key, value in values.items():
        dotted = f"{where}.{key}"
        if isinstance(value, dict) and value and dotted in SECTIONS_OF_HYDRA:
            yield from _leaves(value, dotted)
        else:
            yield dotted
