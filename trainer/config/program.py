"""Program: the command that starts this program, for commands that it prints or runs."""

import importlib.metadata
import os
import shlex
import sys
import tomllib
from pathlib import Path

from trainer.config.command import Command
from trainer.config.groups import CONFIGS

PROGRAM = "TEMPERING_PROGRAM"
"""The environment variable with the command that started the program, for jobs of a sweep."""


def program(command: Command | None = None) -> str:
    """The command that started this program, such as `tempering`, quoted for a shell.

    With `command`, its --config-dir is added, since later commands need this flag, too.
    """
    if PROGRAM in os.environ:  # this is a job of a sweep, whose command the user did not type
        return os.environ[PROGRAM]
    words = _called()
    if command is not None and command.config_dir is not None:
        words += ["--config-dir", str(command.config_dir)]
    return shlex.join(words)


def same_program(file: str) -> list[str]:
    """The command that starts another process of this program, whose script is `file`.

    If the user called `python -m tempering`, the command has -m too: with it, Python also searches
    the working directory, which may contain the user's packages.
    """
    if _is_package():
        return [sys.executable, "-m", "tempering"]
    return [sys.executable, file]


def version() -> str:
    """The version of this package, from its pyproject.toml in a checkout, else as installed."""
    project = CONFIGS.parent / "pyproject.toml"
    if project.is_file():
        found = tomllib.loads(project.read_text(encoding="utf-8")).get("project", {})
        if found.get("name") == "tempering":
            return str(found["version"])
    return importlib.metadata.version("tempering")


def _called() -> list[str]:
    name = Path(sys.argv[0]).name
    if _is_package():
        return ["python", "-m", "tempering"]
    if name == "tempering":
        return [name]
    return ["python", sys.argv[0] if name == "launch.py" else "launch.py"]


def _is_package() -> bool:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec is not None and spec.name == "tempering.__main__"
