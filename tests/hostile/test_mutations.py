"""Every reader, mutated files, a fixed number of cases (`python -m tests.hostile`: more)."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.hostile.files import READERS
from tests.hostile.loop import Loop

CASES = 24
KEPT = json.loads(Path(__file__).with_name("seeds.json").read_text())
"""Cases that broke a promise once: [reader, seed]."""


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Loop]:
    found = Loop(tmp_path_factory.mktemp("hostile"), repository)
    yield found
    found.close()


@pytest.mark.slow
def test_true_files_are_read(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a mutation every command ends with 0: else the mutated ones would tell nothing."""
    monkeypatch.setattr("tests.hostile.loop.mutate", lambda path, dice: "nothing")
    monkeypatch.setattr("tests.hostile.loop.ALLOWED", (0,))
    odd = ("environment",)
    faults = [loop.fault_of(name, 0) for name in READERS if name not in odd]
    assert not [fault for fault in faults if fault]


def test_mutated_files_end_in_one_line(loop: Loop) -> None:
    faults: list[str] = []

    @settings(
        max_examples=CASES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(sorted(READERS)), st.integers(0, 2**32 - 1))
    def check(name: str, seed: int) -> None:
        if fault := loop.fault_of(name, seed):
            faults.append(fault)

    check()
    faults += [fault for name, seed in KEPT if (fault := loop.fault_of(name, seed))]
    assert not faults, "\n".join(faults)
