"""A command composed in this process; every test in an empty folder."""

from collections.abc import Callable

import pytest

import launch
from trainer.launching.command import parse
from trainer.run import Run


@pytest.fixture(autouse=True)
def in_an_empty_folder(alone: None) -> None:
    """Each test in an empty folder, as the only process."""


@pytest.fixture
def composed() -> Callable[..., Run]:
    """The Run that arguments describe."""
    return lambda *arguments: launch.compose_run(parse(arguments))
