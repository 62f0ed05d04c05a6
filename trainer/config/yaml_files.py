"""YAML files: reads and writes configs; large files, tags and duplicate keys are refused."""

from collections.abc import Hashable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from trainer.errors import InputError

Value = None | bool | int | float | str | list["Value"] | dict[str, "Value"]
"""A value of a YAML file."""
MAX_BYTES = 1 << 20
MAX_ALIASES = 20
"""The maximum number of aliases in a file.

Nested aliases multiply: l levels of k aliases make k**l copies, at most 1,500 with 20 aliases.
"""
MAX_DEPTH = 50


def read(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises InputError, which names the file and the line."""
    text = check(path)
    try:
        values = _Strict(text).get_single_data() or {}
    except yaml.MarkedYAMLError as error:
        raise InputError(describe_error(error, path)) from error
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{path}: {error}".splitlines()[0]) from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: found no mapping; accepted: key: value")
    return values


def dump(config: Mapping[str, Any]) -> str:
    """The text of a config, in the form of `config.yaml`."""
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True, width=100)


def check(path: Path) -> str:
    """The text of a YAML file.

    Raises InputError if the file has tags, or exceeds a limit on its size, depth or aliases. Syntax
    errors are ignored; `read` raises them.
    """
    if not path.is_file():
        raise InputError(f"{path}: is not a regular file; accepted: a YAML file")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise InputError(f"{path}: {size:,} bytes; accepted: at most {MAX_BYTES:,}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8; accepted: UTF-8") from error
    with suppress(yaml.YAMLError):  # `read` raises it with its line number
        _check_events(text, path)
    return text


def describe_error(error: yaml.MarkedYAMLError, path: Path | None = None) -> str:
    """The text `file:line: problem` for a YAML error."""
    mark = error.problem_mark or error.context_mark
    file = path or (mark.name if mark else "config")
    line = f":{mark.line + 1}" if mark else ""
    problem = " ".join(str(error.problem or error.context).split())
    if "'\\t'" in problem or '"\\t"' in problem:
        problem = "a tab; accepted: spaces"
    return f"{file}{line}: {problem}"


def _check_events(text: str, path: Path) -> None:
    aliases = depth = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        line = event.start_mark.line + 1
        aliases += isinstance(event, yaml.AliasEvent)
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if aliases > MAX_ALIASES:
            raise InputError(f"{path}:{line}: more aliases than {MAX_ALIASES}; accepted: fewer")
        if depth > MAX_DEPTH:
            raise InputError(f"{path}:{line}: nested deeper than {MAX_DEPTH}; accepted: less")
        tag = getattr(event, "tag", None)
        if tag and not tag.startswith("tag:yaml.org,2002:") or "python/" in str(tag):
            raise InputError(f"{path}:{line}: found the tag '{tag}'; accepted: plain values")


class _Strict(yaml.SafeLoader):
    """A safe loader that refuses duplicate keys, and keys that are lists or mappings."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):  # such as {{ name }} of a template
                problem = "found a list or a mapping as a key; accepted: text, in quotes if needed"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            if key.value in seen:
                problem = f"found duplicate key {key.value}"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)
