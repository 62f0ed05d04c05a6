"""Printed texts: prints help, the version, schemas and configs, instead of starting a job."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from trainer.config import yaml_files
from trainer.config.command import Command
from trainer.config.composed_files import opened_hydra
from trainer.config.composing import compose_run, hydra_settings
from trainer.config.groups import config_folders
from trainer.config.help import help_text
from trainer.config.json_schema import schema_text
from trainer.config.key_help import explain
from trainer.config.program import program, version
from trainer.errors import InputError, first_line
from trainer.redaction import redacted


def print_requested(command: Command) -> bool:
    """Print the text that the flags request, if any; returns whether one was printed.

    Raises InputError.
    """
    if command.version:
        print(f"tempering {version()}")
    elif command.help:
        print(explain(command) or help_text(config_folders(command), program()))
    elif command.schema is not None:
        print(schema_text(command))
    elif command.info or command.shell_completion:
        _by_hydra(command)
    elif command.cfg in ("hydra", "all"):
        _print_hydra(command)
    elif command.cfg and not command.multirun:
        print(yaml_files.dump(compose_run(command).config), end="")
    else:
        return False
    return True


def _print_hydra(command: Command) -> None:
    """Print Hydra's own settings; with `--cfg all`, first print the config of the job."""
    if command.cfg == "all":
        print(yaml_files.dump(compose_run(command).config), end="")
    settings = OmegaConf.to_container(hydra_settings(command), enum_to_str=True)
    print(yaml_files.dump(redacted(settings)), end="")


@contextmanager
def _own_logging() -> Iterator[None]:
    """A context that finally restores the root logger, since Hydra changes it before printing."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def _by_hydra(command: Command) -> None:
    """Let Hydra print `--info` and `--shell-completion`, with the config folders of a run."""
    overrides = [*command.overrides, *command.hydra]
    try:
        with opened_hydra(config_folders(command)), _own_logging():
            hydra = GlobalHydra.instance().hydra
            assert hydra is not None
            if command.shell_completion:
                hydra.shell_completion(command.config_name, overrides)
            else:
                hydra.show_info(str(command.info), command.config_name, overrides)
    except KeyError as error:  # a shell would have set this variable
        raise InputError(
            f"--shell-completion: {error} is not set, as a shell does it; accepted: install=SHELL"
        ) from error
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        flag = "--shell-completion" if command.shell_completion else f"--info {command.info}"
        accepted = "accepted: install=SHELL, uninstall=SHELL (bash, zsh or fish)"
        accepted = accepted if command.shell_completion else "accepted: overrides of keys in --help"
        raise InputError(f"{flag}: {first_line(error)}; {accepted}") from error
