"""Settings defaults: finds the default of each config key in its dataclass."""

import sys
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeAlias

from trainer.runs.run import LaunchSettings, ModelSettings, TokenizerSettings
from trainer.settings import TrainSettings

Plain: TypeAlias = Any
"""Nested mappings and lists of texts, numbers, booleans and None."""

SECTIONS: Mapping[str, type[Any]] = {
    "model": ModelSettings,
    "tokenizer": TokenizerSettings,
    "trainer": TrainSettings,
    "launch": LaunchSettings,
}


def defaults_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Find the known defaults of the settings in a resolved config: dotted key -> default.

    The defaults of a node with a `_target_` are known if that class has been imported.
    """
    found: dict[str, Any] = {"seed": 0, "trusted_packages": []}
    for name, value in config.items():
        if name in SECTIONS:
            found |= _of_class(SECTIONS[name], name)
        elif isinstance(value, Mapping):
            nodes = {name: value} | {f"{name}.{key}": node for key, node in value.items()}
            for key, node in nodes.items():
                if isinstance(node, Mapping) and (cls := _imported(node.get("_target_"))):
                    found |= _of_class(cls, key)
    return found


def flattened(value: object, prefix: str = "") -> dict[str, Any]:
    """Turn nested mappings into one mapping with dotted keys; empty mappings are kept as values."""
    if not isinstance(value, Mapping) or not value:
        return {prefix: value} if prefix else {}
    found: dict[str, Any] = {}
    for key, entry in value.items():
        found |= flattened(entry, f"{prefix}.{key}" if prefix else str(key))
    return found


def plain_values(value: object) -> Plain:
    """Turn the values of a dataclass into nested mappings, lists and scalars."""
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain_values(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain_values(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_values(entry) for entry in value]
    return value if isinstance(value, (int, float, str, bool, type(None))) else str(value)


def _of_class(cls: type[Any], where: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for each in fields(cls):
        default = each.default
        if each.default_factory is not MISSING:
            default = each.default_factory()
        if default is not MISSING and default != "???":
            found |= flattened(plain_values(default), f"{where}.{each.name}")
    return found


def _imported(target: object) -> type[Any] | None:
    """The dataclass at a dotted path; None for other objects and modules that are not imported."""
    module, _, name = str(target).rpartition(".")
    found = getattr(sys.modules.get(module), name, None)
    return found if isinstance(found, type) and is_dataclass(found) else None
