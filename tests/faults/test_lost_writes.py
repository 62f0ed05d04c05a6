"""A power failure: any part of what was not synced may be lost, and a checkpoint still verifies.

The model keeps for each file the content that was synced, and for each folder every list of names
that it had since its last sync: after a failure it may have any of them (journals keep the order
within a folder), and a file that was not synced is empty.
"""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from trainer.checkpoint import files
from trainer.checkpoint.publish import publish, published
from trainer.checkpoint.resume import choose
from trainer.checkpoint.retain import retain
from trainer.checkpoint.verify import CorruptCheckpoint, verify

Choice = Callable[[list], Any]


@dataclass
class File:
    content: bytes
    synced: bytes = b""

    def survive(self, target: Path, choice: Choice) -> None:
        target.write_bytes(self.synced)


@dataclass
class Folder:
    histories: list[dict[str, Any]] = field(default_factory=lambda: [{}])

    @property
    def names(self) -> dict[str, Any]:
        return self.histories[-1]

    def change(self, **names: Any) -> None:
        merged = self.names | names
        self.histories.append({name: node for name, node in merged.items() if node is not None})

    def survive(self, target: Path, choice: Choice) -> None:
        target.mkdir()
        for name, node in choice(self.histories).items():
            node.survive(target / name, choice)


class Disk:
    """Mirrors the operations that files.py reports for a folder, which is synced at the start."""

    def __init__(self, root: Path, deaf_to: type | None = None) -> None:
        self.root, self.deaf_to = root, deaf_to
        self.top = self._read(root)

    def _read(self, path: Path) -> Any:
        if path.is_file():
            return File(path.read_bytes(), path.read_bytes())
        return Folder([{child.name: self._read(child) for child in path.iterdir()}])

    def _at(self, path: Path) -> Any:
        node = self.top
        for part in path.relative_to(self.root).parts:
            node = node.names[part]
        return node

    def told(self, operation: str, *paths: Path) -> None:
        path, names = paths[0], [each.name for each in paths]
        if operation == "fsync":
            self._sync(self._at(path))
        elif operation in ("write", "append", "truncate"):
            self._at(path.parent).change(**{names[0]: File(path.read_bytes())})
        elif operation == "make_folder":
            self._at(path.parent).change(**{names[0]: Folder()})
        elif operation in ("rename", "replace"):
            self._at(path.parent).change(**{names[0]: None, names[1]: self._at(path)})
        elif operation in ("remove_file", "remove_folder"):
            self._at(path.parent).change(**{names[0]: None})

    def _sync(self, node: File | Folder) -> None:
        if type(node) is self.deaf_to:
            return
        if isinstance(node, File):
            node.synced = node.content
        else:
            node.histories = [node.names]


def after_every_operation(folder: Path, work: Callable[[Path], None], **options: Any) -> list[Path]:
    """What a power failure at each operation may leave: all names, synced ones, mixtures."""
    run = folder / "run"
    disk = Disk(run, **options)
    dice = random.Random(0)
    choices: list[Choice] = [lambda h: h[-1], lambda h: h[0], dice.choice, dice.choice]
    left: list[Path] = []
    one_at_a_time = threading.Lock()  # several threads read the files of a checkpoint

    def hook(moment: str, operation: str, *paths: Path) -> None:
        if moment == "after" and run in (paths[0], *paths[0].parents):
            with one_at_a_time:
                disk.told(operation, *paths)
                for choice in choices:
                    left.append(folder / f"left-{len(left)}")
                    disk.top.survive(left[-1], choice)

    files.hook = hook
    work(run)
    files.hook = None
    return left


def save_and_retain(save: Callable[..., Path]) -> Callable[[Path], None]:
    def work(run: Path) -> None:
        save(run, 3)
        retain(run, limit=2, best=1)

    return work


def test_save_and_retention(folder, save_as_runs_do):
    save = save_as_runs_do
    for step in (1, 2):
        save(folder / "run", step)
    left = after_every_operation(folder, save_and_retain(save))
    assert len(left) > 200
    for run in left:
        verify_all(run)
    chosen = [choose(run).name for run in left]
    assert set(chosen) == {"checkpoint-2", "checkpoint-3"}
    assert set(chosen[-4:]) == {"checkpoint-3"}  # after publish() has returned, nothing can be lost
    for run in left:
        verify(run / "checkpoint-1")


def test_a_save_is_durable_when_publish_returns(folder, save_as_runs_do):
    save = save_as_runs_do
    save(folder / "run", 2)
    left = after_every_operation(folder, lambda run: save(run, 3))
    assert {choose(run).name for run in left[-4:]} == {"checkpoint-3"}


def test_model_is_replaced(folder):
    def put(run: Path, text: str) -> None:
        publish(run / "model", lambda s: files.write_text(s / "a.txt", text), facts={})

    put(folder / "run", "old")
    found = set()
    for run in after_every_operation(folder, lambda run: put(run, "new")):
        choose(run)
        verify(run / "model")
        found.add((run / "model" / "a.txt").read_text())
    assert found == {"old", "new"}


@pytest.mark.parametrize("deaf_to", [File, Folder])
def test_the_model_of_the_disk_notices_missing_syncs(folder, save, deaf_to):
    """Without syncs some of these mixtures break a checkpoint, so the tests above can fail."""
    save(folder / "run", 1)
    save(folder / "run", 2)
    left = after_every_operation(folder, save_and_retain(save), deaf_to=deaf_to)
    broken = 0
    for run in left:
        try:
            verify_all(run)
        except CorruptCheckpoint:
            broken += 1
    assert broken > 0


def verify_all(run: Path) -> None:
    for checkpoint in published(run).values():
        verify(checkpoint)
