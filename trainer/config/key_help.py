"""Key help: the text of `--help KEY`, which explains a key, a group or an option."""

import types
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from trainer.choices import SCHEDULES
from trainer.config.command import Command
from trainer.config.groups import CONFIGS, chosen_option, config_folders, options
from trainer.config.help import DIRECTIVES, key_line, opening
from trainer.config.known_keys import (
    OPEN_KINDS,
    Key,
    class_of,
    fixed_keys,
    open_keys,
    option_keys,
    trust_named_packages,
)
from trainer.config.option_files import (
    GLOBAL,
    groups,
    option_file,
    option_values,
    set_keys,
    setters,
    targets,
)
from trainer.config.overrides import Setting
from trainer.config.program import program
from trainer.config.sections import CLOSED
from trainer.config.typed import NOT_GIVEN, describe, plain, show
from trainer.errors import InputError
from trainer.peer_names import answer_for
from trainer.settings import PRECISIONS, TRACKERS

NAMED_VALUES: dict[str, Iterable[str]] = {
    "trainer.lr_scheduler": SCHEDULES,
    "trainer.precision": PRECISIONS,
    "trainer.trackers": TRACKERS,
}
"""A key whose value is text -> the accepted values."""
SHOWN = 6
"""The maximum number of options that are listed as setting a key."""


def explain(command: Command) -> str:
    """The explanation of the arguments after --help; empty if there are none. Raises InputError."""
    trust_named_packages(command)
    folders = config_folders(command)
    set_by = setters(folders) if command.topics else {}
    return "\n\n".join(_topic(text, folders, set_by) for text in command.topics)


def _topic(text: str, folders: Sequence[Path], set_by: Mapping[str, Sequence[str]]) -> str:
    name, equals, value = text.lstrip("+~").partition("=")
    if name in groups(folders):
        return _option(name, value, folders) if equals else _group(name, folders)
    found, inside = _find(name, folders), _starting(fixed_keys(), name)
    entries = [_entry(same, set_by.get(same[0].name, [])) for same in _alike(found)]
    if inside:
        entries.append("\n".join([f"Keys of {name}:", *_key_lines(inside)]))
    if not entries:
        raise _unknown(name, folders)
    return "\n\n".join(entries)


def _group(name: str, folders: Sequence[Path]) -> str:
    known = options(name, list(folders))
    lines = [f"{name}: a config group; {name}=OPTION chooses one of"]
    lines += [f"    {o:24}  {opening(option_file(name, o, folders))}" for o in known]
    if name in CLOSED:
        lines += ["", f"Keys of {name}:", *_key_lines(_starting(fixed_keys(), name))]
    return "\n".join([*lines, "", f"Keys of an option: {program()} --help {name}=OPTION"])


def _option(group: str, value: str, folders: Sequence[Path]) -> str:
    """The explanation of an option: its comment, file, classes and keys."""
    option = chosen_option(Setting(group, value, f"{group}={value}"), list(folders))
    assert option is not None
    file = option_file(group, option, folders)
    values = option_values(group, option, folders)
    lines = [
        f"{group}={option}",
        *(f"  {line}" for line in comment_of(file)),
        f"  file: {_shown(file)}",
    ]
    for where, node in targets(group, values).items() if group in OPEN_KINDS else ():
        cls = class_of(group, node["_target_"], where)
        lines.append(f"  class of {where}: {cls.__module__}.{cls.__qualname__}")
    keys = option_keys(group, option, folders) if group in OPEN_KINDS else []
    if keys:
        return "\n".join([*lines, "", "Keys, with their values:", *_key_lines(keys)])
    sentences = {key.name: key.sentence for key in fixed_keys()}
    pairs = set_keys(values if group in GLOBAL else {group: values}) if values else ()
    set_here = [key_line(key, v, sentences.get(key, "")) for key, v in pairs]
    return "\n".join([*lines, "", *(["It sets:", *set_here] if set_here else ["It sets no key."])])


def comment_of(file: Path) -> list[str]:
    """The lines of the comment at the start of a YAML file, without directives."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        words = line.removeprefix("#").removeprefix(" ")
        if not words.startswith(DIRECTIVES):
            lines.append(words)
    return lines


def _key_lines(keys: Iterable[Key]) -> list[str]:
    return [key_line(key.name, plain(key.default), key.sentence) for key in keys]


def _starting(keys: Iterable[Key], section: str) -> list[Key]:
    return [key for key in keys if key.name.startswith(f"{section}.")]


def _find(name: str, folders: Sequence[Path]) -> list[Key]:
    """The keys with this name; the name may omit the section (`learning_rate`)."""
    found = [key for key in fixed_keys() if _is(key, name)]
    for group in OPEN_KINDS if not found else ():
        if name.startswith(f"{group}.") or ("." not in name and not found):
            found += [key for key in open_keys(group, folders) if _is(key, name)]
    return found


def _is(key: Key, name: str) -> bool:
    return key.name == name or ("." not in name and key.name.endswith(f".{name}"))


def _alike(keys: Sequence[Key]) -> list[list[Key]]:
    """The keys, grouped so that keys that differ only in their option are together."""
    found: dict[tuple[str, str, str, str], list[Key]] = {}
    for key in keys:
        found.setdefault((key.name, str(key.hint), str(key.default), key.sentence), []).append(key)
    return list(found.values())


def _entry(same: Sequence[Key], names: Sequence[str]) -> str:
    """The explanation of a key that several options share; `names` are the options that set it."""
    key = same[0]
    lines = [key.name, f"  {key.sentence}", f"  type: {type_words(key.hint)}"]
    value = show(plain(key.default))
    if isinstance(key.default, (list, dict)):
        value = str(key.default)
    lines.append("  must be given" if key.default == NOT_GIVEN else f"  default: {value}")
    if accepted := accepted_values(key):
        lines.append(f"  accepted: {accepted}")
    if key.option:
        lines.append(f"  with: {', '.join(str(each.option) for each in same)}")
    lines.append(f"  set it with: {key.name}=VALUE")
    if key.option is None and names:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        lines.append(f"  set by: {', '.join(names[:SHOWN])}{more}")
    return "\n".join([*lines, f"  declared in: {key.home}"])


def accepted_values(key: Key) -> str:
    """The values that a text key accepts, as a phrase; empty if it may be any text or number."""
    if key.name in NAMED_VALUES:
        return ", ".join(NAMED_VALUES[key.name])
    choices = _choices(key.hint)
    return describe(key.hint) if choices else ""


def _choices(hint: Any) -> bool:
    """Whether a type is a Literal, or a union that contains one."""
    if get_origin(hint) in (Union, types.UnionType):
        return any(_choices(each) for each in get_args(hint))
    return get_origin(hint) is Literal


def type_words(hint: Any) -> str:
    """The type of a key, in words; a Literal is described by the type of its values."""
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(type_words, get_args(hint))))
    if get_origin(hint) is Literal:
        return " or ".join(dict.fromkeys(describe(type(value)) for value in get_args(hint)))
    return describe(hint)


def _unknown(name: str, folders: Sequence[Path]) -> InputError:
    """The error for an unknown key, with similar names."""
    section, _, last = name.rpartition(".")
    keys = fixed_keys()
    for group in ("dataset", "recipe", "metrics"):
        keys += open_keys(group, folders)
    names = list(dict.fromkeys(key.name for key in keys))
    if answer := answer_for(last, [each.rpartition(".")[2] for each in names]):
        return InputError(f"--help: no key '{name}'; {answer}")
    near = get_close_matches(name, [*names, *groups(folders), *CLOSED], n=3, cutoff=0.7)
    ends = get_close_matches(last, {each.rpartition(".")[2] for each in names}, n=3, cutoff=0.75)
    near += [each for end in ends for each in names if each.rpartition(".")[2] == end]
    near = list(dict.fromkeys(near))[:3]
    if near:
        return InputError(f"--help: no key '{name}'; did you mean {_listed(near)}?")
    accepted = "accepted: a key, a group, or group=option, as --help lists them"
    return InputError(f"--help: no key '{name}'; {accepted}")


def _listed(names: Sequence[str]) -> str:
    quoted = [f"'{name}'" for name in names]
    return " or ".join([", ".join(quoted[:-1]), quoted[-1]] if quoted[1:] else quoted)


def _shown(file: Path) -> str:
    """The path of a file to show: relative to the project for files in its configs folder."""
    return str(file.relative_to(CONFIGS.parent) if file.is_relative_to(CONFIGS) else file)
