"""Unknown keys: makes an error that suggests the right key, also for other tools' names."""

import pkgutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from typing import Any, get_type_hints

from trainer.config import yaml_files
from trainer.config.groups import CONFIGS
from trainer.config.sections import CLOSED, KEYS_OF_JOBS, OPEN, TOP_LEVEL
from trainer.errors import InputError, nearest
from trainer.peer_names import answer_for
from trainer.peer_reasons import ALIKE

MAIN = ("trainer", "model", "tokenizer", "dataset", "recipe", "launch")
"""Sections that are suggested, like top-level keys, before those of single jobs."""
MOST_SUGGESTED = 3
"""The maximum number of suggested keys in other sections."""


def unknown_key(
    section: str, key: str, accepted: Iterable[str], value: object = None
) -> InputError:
    """The error for an unknown `key` of `section` ("" is the top level), with a suggestion.

    If the key's `value` is a mapping, the names inside it are also considered (`training.lr`).
    """
    names = [key]
    while isinstance(value, Mapping) and value:
        inner, value = next(iter(value.items()))
        names.append(str(inner))
    dotted = ".".join([section] * bool(section) + names)
    return InputError(f"{dotted}: unknown key; {_answer(section, names, list(accepted))}")


def _answer(section: str, names: list[str], accepted: list[str]) -> str:
    for name in reversed(names):
        if answer := answer_for(name, accepted):
            return answer
    known = _all_keys()
    if same := _ending_alike([section] * bool(section) + names, known):
        return f"did you mean {' or '.join(repr(key) for key in same)}?"
    match = nearest(names[0], accepted)
    if match and section:
        match = match.replace("mean '", f"mean '{section}.")
    homes = {key.rpartition(".")[2]: key for key in reversed(known) if _is_main(key)}
    elsewhere = get_close_matches(names[-1], list(homes), n=1, cutoff=ALIKE)
    if not match and elsewhere:
        match = f"; did you mean '{homes[elsewhere[0]]}'?"
    return match.removeprefix("; ") or f"accepted: {', '.join(accepted) or 'none'}"


def _ending_alike(names: list[str], known: Sequence[str]) -> list[str]:
    """The outermost keys that share the longest ending with `names`; none if there are many."""
    for start in range(len(names)):
        ending = ".".join(["", *names[start:]])
        if found := [key for key in known if f".{key}".endswith(ending)]:
            outermost = min(key.count(".") for key in found)
            found = [key for key in found if key.count(".") == outermost]
            if len(found) > MOST_SUGGESTED:
                found = [key for key in found if _is_main(key)]
            found.sort(key=lambda key: not _is_main(key))
            return found if len(found) <= MOST_SUGGESTED else []
    return []


def _is_main(key: str) -> bool:
    return key.partition(".")[0] in MAIN or key in TOP_LEVEL


def _all_keys() -> list[str]:
    """The sections and keys of a config, each once, with those of all options of this package."""
    keys = [*OPEN, *TOP_LEVEL, *KEYS_OF_JOBS]
    keys += [key for section, cls in CLOSED.items() for key in _keys_of_class(section, cls)]
    for group in OPEN:
        for file in sorted((CONFIGS / group).glob("*.yaml")):
            keys += _keys_of_values(group, yaml_files.read(file))
    return list(dict.fromkeys(keys))


def _keys_of_class(where: str, cls: type[Any]) -> Iterator[str]:
    hints = get_type_hints(cls)
    for field in fields(cls):
        yield f"{where}.{field.name}"
        hint = hints[field.name]
        if isinstance(hint, type) and is_dataclass(hint):
            yield from _keys_of_class(f"{where}.{field.name}", hint)


def _keys_of_values(where: str, values: object) -> Iterator[str]:
    """The keys of the class that the values of one of our own files name."""
    if not isinstance(values, Mapping):
        return
    if "_target_" in values:
        yield from _keys_of_class(where, pkgutil.resolve_name(values["_target_"]))
        return
    for name, value in values.items():
        yield from _keys_of_values(f"{where}.{name}", value)
