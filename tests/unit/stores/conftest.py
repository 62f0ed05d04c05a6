"""A store in memory, and a folder for the copies."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.smallest_progress import progress
from trainer.checkpoint import files
from trainer.stores import store


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty store in memory; the folder of copies."""
    monkeypatch.setenv("TEMPERING_STAGE", str(tmp_path / "stage"))
    monkeypatch.setattr(store, "PAUSES", (0.0, 0.0))
    yield tmp_path / "stage"
    files.hook = None


def filling(step: int, word: str, best: int | None = None) -> Callable[[Path], None]:
    """Writes the smallest checkpoint that can be resumed from, and a word."""
    found = progress(step, best_metric=None if best is None else 0.5, best_step=best)

    def write(staging: Path) -> None:
        files.make_folder(staging / "state")
        files.write_json(staging / "state" / "trainer.json", asdict(found))
        files.write_text(staging / "word.txt", word)

    return write


@pytest.fixture
def fill() -> Callable[[int, str], Callable[[Path], None]]:
    """Fills the smallest checkpoint of a step, with a word."""
    return filling
