"""Ways to ask the launcher: in this process, with what it printed and left on the disk."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import launch
from trainer.launching.command import parse
from trainer.run import Run


@dataclass
class Answer:
    """What a command came to."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test in an empty folder, as the only process."""
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Call the launcher with arguments."""

    def call(*arguments: str) -> Answer:
        code = launch.main(arguments)
        printed = capsys.readouterr()
        return Answer(code, printed.out, printed.err)

    return call


@pytest.fixture
def refused(ask: Callable[..., Answer], tmp_path: Path) -> Callable[..., str]:
    """Call it with what it must refuse in one line, writing nothing; returns the line."""

    def call(*arguments: str) -> str:
        before = tree(tmp_path)
        answer = ask(*arguments)
        assert answer.code == 2, answer
        assert answer.err.startswith("error: ") and answer.err.count("\n") == 1, answer.err
        assert answer.out == ""
        assert tree(tmp_path) == before
        return answer.err.removeprefix("error: ").rstrip("\n")

    return call


def tree(folder: Path) -> dict[str, str]:
    """Every path below `folder`, with the digest of what it holds."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else ""
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def composed() -> Callable[..., Run]:
    """The Run that arguments describe."""
    return lambda *arguments: launch.compose_run(parse(arguments))
