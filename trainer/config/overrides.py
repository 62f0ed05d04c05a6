"""Overrides: reads `key=value` on the command line with Hydra's grammar."""

import re
from dataclasses import dataclass
from typing import cast

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from trainer.config.command import PATH_LISTS, PATHS
from trainer.config.yaml_files import Value
from trainer.errors import InputError


@dataclass(frozen=True)
class Setting:
    """One override of the command line, or one entry of the command's file."""

    key: str
    value: Value
    text: str
    """The whole override, as the user typed it."""
    deleted: bool = False
    """Whether the override is `~key`, which deletes the key."""
    in_file: bool = False
    """Whether it is an entry of the command's file, which the command line may replace."""


def read_override(text: str) -> Setting:
    """Read one override; a prefix `+` or `++` is ignored, so `+key=value` means `key=value`.

    A value that Hydra's grammar does not accept is read as text. Raises InputError for several
    values (such as `a,b`), which only sweeps accept.
    """
    key, _, value = text.partition("=")
    if text.startswith("~"):
        return Setting(key.removeprefix("~"), None, text, deleted=True)
    key = key.lstrip("+")
    parsed = _parse_value(value)
    several = parsed is not None and parsed.is_sweep_override()
    if several and key not in PATHS:
        raise InputError(f"{key}: found several values ({value}); accepted: one, or -m for a sweep")
    if key in PATH_LISTS and not several and re.fullmatch(r"\[.*\]", value):
        return Setting(key, _paths(value[1:-1]), text)
    if parsed is None and re.search(r"""^\{.*["'].*\}$""", value):
        return Setting(key, _quoted_mapping(value), text)
    if parsed is None or several:
        return Setting(key, value, text)
    found = cast(Value, parsed.value())  # several values were refused above
    return Setting(key, value if key in PATHS and isinstance(found, (int, float)) else found, text)


def is_sweep(text: str) -> bool:
    """Whether an override has several values: `a,b`, choice(), range(), interval() or glob()."""
    parsed = None if text.startswith("~") else _parse_value(text.partition("=")[2])
    return parsed is not None and parsed.is_sweep_override()


def _paths(text: str) -> list[Value]:
    """The paths of a list, split at commas outside quotes and brackets."""
    entries = re.findall(r"""((?:'[^']*'|"[^"]*"|\[[^\]]*\]|[^,])*)(?:,|$)""", text)[:-1]
    return [re.sub(r"""^(['"])(.*)\1$""", r"\2", entry.strip()) for entry in entries]


def _quoted_mapping(value: str) -> Value:
    """A mapping with quoted keys, which Hydra's grammar cannot read; any other text unchanged."""
    try:
        found = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError):  # a ValueError for a date such as 2026-13-45
        return value
    return found if isinstance(found, dict) else value


def _parse_value(value: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(f"key={value}")
    except HydraException:
        return None
