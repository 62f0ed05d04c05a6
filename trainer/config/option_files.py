"""Option files: the YAML files of config groups, with the classes and keys that they name."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.config import yaml_files
from trainer.config.groups import options

GLOBAL = ("experiment", "job")
"""Groups whose files set keys of the whole config."""


def groups(folders: Sequence[Path]) -> list[str]:
    """The config groups that have options."""
    names = {path.name for folder in folders for path in folder.iterdir() if path.is_dir()}
    return sorted(name for name in names if options(name, list(folders)))


def option_file(group: str, option: str, folders: Sequence[Path]) -> Path:
    """The file of an option; a file in the user's own folder takes precedence."""
    files = [folder / group / f"{option}.yaml" for folder in folders]
    return next(file for file in files if file.is_file())


def option_values(
    group: str, option: str, folders: Sequence[Path], seen: Sequence[str] = ()
) -> dict[str, Any]:
    """The values of an option, merged with those of the options in its defaults list."""
    own = yaml_files.read(option_file(group, option, folders))
    known = options(group, list(folders))
    values: dict[str, Any] = {}
    for entry in own.pop("defaults", None) or []:
        if isinstance(entry, str) and entry in known and entry not in (*seen, option):
            values = _merged(values, option_values(group, entry, folders, (*seen, option)))
    return _merged(values, own)


def targets(group: str, values: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The parts of an option that name a class: key -> the part's values with its `_target_`."""
    nodes = {group: values} | {f"{group}.{name}": value for name, value in values.items()}
    return {
        key: node
        for key, node in nodes.items()
        if isinstance(node, Mapping) and isinstance(node.get("_target_"), str)
    }


def set_keys(values: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of every leaf of nested mappings."""
    for key, value in values.items():
        dotted = f"{where}.{key}" if where else str(key)
        if isinstance(value, Mapping) and value:
            yield from set_keys(value, dotted)
        else:
            yield dotted, value


def setters(folders: Sequence[Path]) -> dict[str, list[str]]:
    """Key -> the options whose files set this key or a key inside it (`experiment=quickstart`)."""
    found: dict[str, list[str]] = {}
    for group in groups(folders):
        for option in options(group, list(folders)):
            own = yaml_files.read(option_file(group, option, folders))
            for key in _not_null(own if group in GLOBAL else {group: own}):
                found.setdefault(key, []).append(f"{group}={option}")
    return found


def _not_null(values: Mapping[str, Any], where: str = "") -> Iterator[str]:
    """Yield the dotted key of every value of nested mappings that is not null."""
    for key, value in values.items():
        dotted = f"{where}.{key}" if where else str(key)
        if value is not None:
            yield dotted
        if isinstance(value, Mapping):
            yield from _not_null(value, dotted)


def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(first)
    for key, value in second.items():
        before = merged.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            value = _merged(before, value)
        merged[key] = value
    return merged
