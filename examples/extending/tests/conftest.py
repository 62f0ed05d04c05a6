"""Fixtures: an isolated environment, the trusted example package, and the launcher."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

import launch
from trainer import registry, trust

CONFIGS = Path(__file__).parents[1] / "configs"
FLAGS = (f"--config-dir={CONFIGS}", "trusted_packages=[examples.extending]")


class Answer(NamedTuple):
    """The result of a command."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test runs offline, in an empty folder, as a single process that trusts no package."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_trusted", [])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TEMPERING_CACHE", str(tmp_path / "cache"))
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def trusted(alone: None) -> None:
    """Trust the package, as `trusted_packages=[examples.extending]` does."""
    trust("examples.extending")


@pytest.fixture
def ask(alone: None, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """A function that runs `launch.py` with this package's flags and further arguments."""

    def call(*arguments: str, flags: tuple[str, ...] = FLAGS) -> Answer:
        code = launch.main([*flags, *arguments])
        printed = capsys.readouterr()
        return Answer(code, printed.out, printed.err)

    return call
