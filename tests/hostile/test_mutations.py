"""Every reader with a fixed number of mutated files (`python -m tests.hostile` runs more)."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile.files import READERS
from tests.hostile.loop import Loop

KEPT = json.loads(Path(__file__).with_name("seeds.json").read_text())
"""Cases that failed once: [reader, seed]."""


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Loop]:
    found = Loop(tmp_path_factory.mktemp("hostile"), repository)
    yield found
    found.close()


@pytest.mark.slow
def test_true_files_are_read(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a mutation every command exits with 0; otherwise mutations would show nothing."""
    monkeypatch.setattr("tests.hostile.loop.mutate", lambda path, dice: "nothing")
    monkeypatch.setattr("tests.hostile.loop.ALLOWED", (0,))
    odd = ("environment",)
    faults = [loop.fault_of(name, 0) for name in READERS if name not in odd]
    assert not [fault for fault in faults if fault]


def test_mutated_files_end_in_one_line(loop: Loop) -> None:
    """One case of each reader, and those that failed once."""
    cases = [*((name, 0) for name in READERS), *KEPT]
    faults = [loop.fault_of(name, seed) for name, seed in cases]
    assert not any(faults), "\n".join(filter(None, faults))
