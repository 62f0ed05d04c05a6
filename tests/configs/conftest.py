"""Composes commands in this process; every test runs in an empty folder."""

from collections.abc import Callable

import pytest

from trainer.config.command import parse
from trainer.config.composing import compose_run
from trainer.runs.run import Run


@pytest.fixture(autouse=True)
def in_an_empty_folder(alone: None) -> None:
    """Run each test in an empty folder, as the only process."""


@pytest.fixture
def composed() -> Callable[..., Run]:
    """The Run that the arguments describe."""
    return lambda *arguments: compose_run(parse(arguments))
