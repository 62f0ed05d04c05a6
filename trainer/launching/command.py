"""The command line, read: flags, texts that are taken verbatim, and overrides."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trainer.errors import InputError, nearest

FLAGS = {
    "-h": "help",
    "--help": "help",
    "-m": "multirun",
    "--multirun": "multirun",
    "-c": "cfg",
    "--cfg": "cfg",
    "-cd": "config_dir",
    "--config-dir": "config_dir",
    "-cn": "config_name",
    "--config-name": "config_name",
}
VERBATIM = ("input.text", "input.text_pair", "input.prompt", "input.system")
"""Keys whose value is what the shell passed, whatever it looks like."""

PATHS = (
    ("output_dir", "run_name", "from", "model.path", "model.revision", "model.sha256")
    + ("tokenizer.path", "tokenizer.revision", "dataset.path", "dataset.name", "dataset.train")
    + ("dataset.validation", "dataset.test", "input.file", "output.file")
    + ("launch.rendezvous",)
)
"""Keys whose value is text: commas and digits in it mean nothing."""


@dataclass
class Command:
    """What was typed."""

    help: bool = False
    multirun: bool = False
    cfg: str | None = None
    config_dir: Path | None = None
    config_name: str = "config"
    texts: dict[str, str] = field(default_factory=dict)
    """Verbatim key -> value."""
    from_run: str | None = None
    """The folder of the run to repeat."""
    overrides: list[str] = field(default_factory=list)
    """`key=value` and `~key`, as typed."""


def parse(arguments: Sequence[str]) -> Command:
    """Raises InputError for a flag or an argument that is none."""
    command = Command()
    rest = iter(arguments)
    for argument in rest:
        if argument.startswith("-"):
            _take_flag(command, argument, rest)
        else:
            _take_override(command, argument)
    if command.cfg not in (None, "job"):
        raise InputError(f"--cfg: found '{command.cfg}'; accepted: job")
    if command.config_dir is not None and not command.config_dir.is_dir():
        raise InputError(f"--config-dir: no folder '{command.config_dir}'; accepted: a folder")
    if not re.fullmatch(r"[A-Za-z0-9_/-]+(\.yaml)?", command.config_name):
        raise InputError(f"--config-name: found {command.config_name!r}; accepted: a plain name")
    command.config_name = command.config_name.removesuffix(".yaml")
    return command


def typed(command: Command) -> list[str]:
    """The arguments that one job of `command` is started with: `parse` makes it of them again."""
    arguments = []
    if command.config_name != "config":
        arguments.append(f"--config-name={command.config_name}")
    if command.config_dir is not None:
        arguments.append(f"--config-dir={command.config_dir}")
    if command.from_run is not None:
        arguments.append(f"from={command.from_run}")
    return arguments + command.overrides + [f"{k}={text}" for k, text in command.texts.items()]


def _take_flag(command: Command, argument: str, rest: Iterator[str]) -> None:
    flag, equals, value = argument.partition("=")
    name = FLAGS.get(flag)
    if name is None:
        accepted = ", ".join(key for key in FLAGS if key.startswith("--"))
        hint = nearest(flag, FLAGS) or f"; accepted: {accepted}, and key=value"
        raise InputError(f"{argument}: unknown flag{hint}")
    if name in ("help", "multirun"):
        if equals:
            raise InputError(f"{argument}: {flag} takes no value; accepted: {flag}")
        setattr(command, name, True)
        return
    value = value if equals else next(rest, "")
    if not value:
        raise InputError(f"{flag}: nothing given; accepted: {flag} VALUE")
    setattr(command, name, Path(value) if name == "config_dir" else value)


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
        raise InputError(f"{argument!r}: '{key}' is no key; accepted: key=value")
    elif re.match(r"\W*hydra[./=]", argument):
        raise InputError(f"{key}: Hydra's own settings have no say here; accepted: our own keys")
    else:
        command.overrides.append(argument)
