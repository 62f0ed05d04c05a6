"""Verbose: implements `hydra.verbose`, which writes loggers' debug messages to standard error."""

import json
import logging
import os
import sys
from collections.abc import Sequence

from trainer.config.overrides import read_override
from trainer.config.yaml_files import Value
from trainer.errors import InputError
from trainer.local_copies import with_urls
from trainer.terminal.console import PlainFormatter

VARIABLE = "TEMPERING_VERBOSE"
"""The environment variable with the value of hydra.verbose, for ranks that this process starts."""
FORMAT = "[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"


def log_verbosely(overrides: Sequence[str] = ()) -> None:
    """Apply hydra.verbose: true for all loggers, the name of a logger, or a list of names.

    Raises InputError for any other value.
    """
    given = [read_override(text) for text in overrides]
    value = next((each.value for each in given if each.key == "hydra.verbose"), _inherited())
    names = [value] if isinstance(value, str) else value
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        loggers = [logging.getLogger(str(name)) for name in names]
    elif isinstance(value, bool):
        loggers = [logging.getLogger()] if value else []
    else:
        accepted = "accepted: true, false, or names of loggers"
        raise InputError(f"hydra.verbose: found {value!r}; {accepted}")
    if not loggers:
        return
    os.environ[VARIABLE] = json.dumps(value)
    _add_handler()
    for logger in loggers:
        logger.setLevel(logging.DEBUG)


def _inherited() -> Value:
    try:
        value: Value = json.loads(os.environ.get(VARIABLE, "false"))
    except ValueError:
        return os.environ[VARIABLE]
    return value


def _add_handler() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PlainFormatter(FORMAT, with_urls))
    logging.getLogger().addHandler(handler)
