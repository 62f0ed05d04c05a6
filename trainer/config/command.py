"""Command: splits the command line into flags, overrides and texts that are not parsed."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trainer.config.hydra_keys import (
    asks_for_multirun,
    check_hydra_key,
    check_use,
    is_for_jobs,
    is_of_hydra,
    is_of_sweeps,
)
from trainer.errors import InputError, nearest

FLAGS = {
    "-h": "help",
    "--help": "help",
    "--version": "version",
    "-m": "multirun",
    "--multirun": "multirun",
    "-c": "cfg",
    "--cfg": "cfg",
    "-cd": "config_dir",
    "--config-dir": "config_dir",
    "-cn": "config_name",
    "--config-name": "config_name",
    "--config": "file",
    "-i": "info",
    "--info": "info",
    "-sc": "shell_completion",
    "--shell-completion": "shell_completion",
}
WITHOUT_VALUE = ("help", "version", "multirun", "shell_completion")
"""Flags without a value."""
CFG = ("job", "hydra", "all")
"""The accepted values of --cfg, which prints configs."""
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
"""The accepted values of --info, as in Hydra."""
VERBATIM = ("input.text", "input.text_pair", "input.prompt", "input.system")
"""Keys whose values are not parsed, but used as the shell passed them."""

PATHS = (
    ("output_dir", "run_name", "from", "model.path", "model.revision", "model.sha256")
    + ("tokenizer.path", "tokenizer.revision", "dataset.path", "dataset.name", "dataset.train")
    + ("dataset.validation", "dataset.test", "input.file", "output.file")
    + ("launch.rendezvous",)
)
"""Keys whose values are always text, so that commas and digits have no special meaning."""

PATH_LISTS = ("dataset.train", "dataset.validation", "dataset.test", "input.file")
"""Keys of PATHS that also accept several paths: [a.csv,folder/]."""


@dataclass
class Command:
    """A command line, split into its parts."""

    help: bool = False
    topics: list[str] = field(default_factory=list)
    """The arguments after --help: keys, groups and group=option."""
    version: bool = False
    schema: list[str] | None = None
    """The words after `schema`: a config group or nothing; None without `schema`."""
    multirun: bool = False
    cfg: str | None = None
    config_dir: Path | None = None
    config_name: str = "config"
    file: Path | None = None
    """The file with all settings of the command (`tempering run.yaml`)."""
    texts: dict[str, str] = field(default_factory=dict)
    """A key of VERBATIM -> its value."""
    from_run: str | None = None
    """The folder of the run to repeat (`from=FOLDER`)."""
    overrides: list[str] = field(default_factory=list)
    """The overrides `key=value` and `~key`, as the user typed them."""
    hydra: list[str] = field(default_factory=list)
    """The overrides of Hydra's own settings, as the user typed them."""
    info: str | None = None
    """The value of --info."""
    shell_completion: bool = False


def parse(arguments: Sequence[str]) -> Command:
    """Split the arguments into flags and overrides. Raises InputError for any other argument."""
    command = Command()
    rest = iter(arguments)
    for argument in rest:
        if argument in ("-i", "--info"):
            command.info = "all"
        elif argument.startswith("-"):
            _take_flag(command, argument, rest)
        elif argument in INFO and command.info == "all":
            command.info = argument
        elif command.help:
            command.topics.append(argument)
        elif command.schema is not None and "=" not in argument:
            command.schema.append(argument)
        elif argument.endswith((".yaml", ".yml")) and "=" not in argument:
            _take_flag(command, f"--config={argument}", rest)
        elif argument == "schema":
            command.schema = []
        else:
            _take_override(command, argument)
    if command.schema is not None:
        _check_schema(command, command.schema)
    for flag, found, known in (("cfg", command.cfg, CFG), ("info", command.info, INFO)):
        if found is not None and found not in known:
            raise InputError(f"--{flag}: found '{found}'; accepted: {', '.join(known)}")
    command.multirun = command.multirun or asks_for_multirun(command.hydra)
    if not (command.multirun or command.cfg in ("hydra", "all") or command.info):
        check_use([*command.hydra, *(t for t in command.overrides if is_of_sweeps(t))])
    if command.config_dir is not None and not command.config_dir.is_dir():
        found = f"no folder '{command.config_dir}'"
        raise InputError(f"--config-dir: {found}; accepted: an existing folder")
    if command.file is not None and not command.file.is_file():
        raise InputError(f"--config: no file '{command.file}'; accepted: a YAML file")
    if not re.fullmatch(r"[A-Za-z0-9_/-]+(\.yaml)?", command.config_name):
        accepted = "a name of letters, digits, _, - and /, with or without .yaml"
        raise InputError(f"--config-name: found {command.config_name!r}; accepted: {accepted}")
    command.config_name = command.config_name.removesuffix(".yaml")
    return command


def _check_schema(command: Command, words: list[str]) -> None:
    """Raise InputError for more than one group, and for overrides, which a schema cannot use."""
    others = [text for text in command.overrides if not text.startswith("trusted_packages=")]
    others += [*command.texts, *(["from"] if command.from_run else [])]
    if len(words) > 1 or others:
        found = " ".join([*words, *others])
        raise InputError(f"schema: found {found}; accepted: one group, or none")


def typed(command: Command) -> list[str]:
    """The arguments of a command, without the flags and settings that concern a whole sweep.

    `parse` reads the same settings from these arguments.
    """
    arguments = []
    if command.config_name != "config":
        arguments.append(f"--config-name={command.config_name}")
    if command.config_dir is not None:
        arguments.append(f"--config-dir={command.config_dir}")
    if command.file is not None:
        arguments.append(f"--config={command.file}")
    if command.from_run is not None:
        arguments.append(f"from={command.from_run}")
    arguments += command.overrides + [text for text in command.hydra if is_for_jobs(text)]
    return arguments + [f"{k}={text}" for k, text in command.texts.items()]


def _take_flag(command: Command, argument: str, rest: Iterator[str]) -> None:
    flag, equals, value = argument.partition("=")
    name = FLAGS.get(flag)
    if name is None:
        accepted = ", ".join(key for key in FLAGS if key.startswith("--"))
        hint = nearest(flag, FLAGS) or f"; accepted: {accepted}, and key=value"
        raise InputError(f"{argument}: unknown flag{hint}")
    if name in WITHOUT_VALUE:
        if equals:
            raise InputError(f"{argument}: {flag} takes no value; accepted: {flag}")
        setattr(command, name, True)
        return
    value = value if equals else next(rest, "")
    if not value:
        raise InputError(f"{flag}: nothing given; accepted: {flag} VALUE")
    if name == "file" and command.file is not None:
        raise InputError(f"{argument}: found a second file; accepted: one")
    setattr(command, name, Path(value) if name in ("config_dir", "file") else value)


def _take_override(command: Command, argument: str) -> None:
    key, equals, value = argument.partition("=")
    plain_key = key.lstrip("+")
    if plain_key in VERBATIM and equals:
        command.texts[plain_key] = value
    elif plain_key == "from" and equals:
        command.from_run = value
    elif not equals and not key.startswith("~"):
        raise InputError(f"{argument!r}: no '=' in it; accepted: key=value")
    elif not re.fullmatch(r"(\+{0,2}|~)[^\W\d][\w@/-]*(\.[\w -]+)*", key):
        raise InputError(f"{argument!r}: '{key}' is not a key; accepted: key=value")
    elif is_of_hydra(key):
        check_hydra_key(key)
        command.hydra.append(argument)
    else:
        command.overrides.append(argument)
