"""Known keys: every key of a config, with its type, default, description and class."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from trainer import registry
from trainer.config.assemble import defaults
from trainer.config.command import Command
from trainer.config.groups import options
from trainer.config.option_files import option_values, targets
from trainer.config.overrides import read_override
from trainer.config.sections import CLOSED, KEYS_OF_JOBS, TOP_LEVEL
from trainer.config.sentences import field_sentences
from trainer.config.target import CALLBACK, DATA_SOURCE, METRIC, RECIPE, Kind, resolve
from trainer.config.typed import NOT_GIVEN
from trainer.errors import InputError

OPEN_KINDS: dict[str, Kind] = {
    "dataset": DATA_SOURCE,
    "recipe": RECIPE,
    "metrics": METRIC,
    "callbacks": CALLBACK,
}
"""A section whose keys depend on its `_target_` -> the kind of class that it must name."""


@dataclass(frozen=True)
class Key:
    """A key of the config."""

    name: str
    """The dotted name, such as `trainer.learning_rate`."""
    hint: Any
    """The type annotation."""
    default: object
    """The default value; NOT_GIVEN for a required key."""
    sentence: str
    """The description of the key."""
    home: str
    """The dotted name of the class that declares the key."""
    option: str | None = None
    """The option of a group that has this key (`recipe=causal_lm`); None for a fixed key."""


def fixed_keys() -> list[Key]:
    """The keys at the top level, and those in the sections whose keys are fixed."""
    home = "trainer.config.assemble"
    given = defaults() | {"runs": [], "run": None}
    top = [
        Key(name, hint, given[name], sentence, home)
        for name, (hint, sentence) in {**TOP_LEVEL, **KEYS_OF_JOBS}.items()
    ]
    sentence = "The folder of a run to repeat; the other overrides change its config."
    top.append(Key("from", str | None, None, sentence, home))
    return top + [key for name, cls in CLOSED.items() for key in keys_of(cls, name)]


def trust_named_packages(command: Command) -> None:
    """Trust the packages that the command line names, so that their classes' keys are known."""
    for text in command.overrides:
        setting = read_override(text)
        if setting.key == "trusted_packages" and isinstance(setting.value, list):
            registry.trust(*map(str, setting.value))


def keys_of(cls: type[Any], where: str, option: str | None = None) -> Iterator[Key]:
    """Yield the keys of a dataclass at the key `where`, and of the dataclasses in its fields."""
    hints, sentences = get_type_hints(cls), field_sentences(cls)
    home = f"{cls.__module__}.{cls.__qualname__}"
    for field in fields(cls):
        if not field.init:
            continue
        default = field.default if field.default_factory is MISSING else field.default_factory()
        default = NOT_GIVEN if default is MISSING else default
        name, hint = f"{where}.{field.name}", hints[field.name]
        yield Key(name, hint, default, sentences.get(field.name, ""), home, option)
        if isinstance(hint, type) and is_dataclass(hint):
            yield from keys_of(hint, name, option)


def option_keys(group: str, option: str, folders: Sequence[Path]) -> list[Key]:
    """The keys of the classes that an option names, with the option's values as defaults.

    Raises InputError if one of the classes is unknown or not trusted.
    """
    found = []
    for where, node in targets(group, option_values(group, option, folders)).items():
        for key in keys_of(class_of(group, node["_target_"], where), where, f"{group}={option}"):
            value = _inside(node, key.name.removeprefix(f"{where}."), key.default)
            found.append(Key(key.name, key.hint, value, key.sentence, key.home, key.option))
    return found


def open_keys(group: str, folders: Sequence[Path]) -> list[Key]:
    """The keys of all options of a group, except options whose class is unknown or not trusted."""
    found = []
    for option in options(group, list(folders)):
        try:
            found += option_keys(group, option, folders)
        except InputError:
            continue
    return found


def class_of(group: str, target: str, where: str) -> type[Any]:
    """The class that a `_target_` in this group names. Raises InputError."""
    kind = OPEN_KINDS[group]
    return resolve(target, f"{where}._target_", registry.trusted(), kind.parts)


def _inside(values: Mapping[str, Any], dotted: str, otherwise: object) -> object:
    found: Any = values
    for part in dotted.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return otherwise
        found = found[part]
    return found
