"""A rank that is killed or hangs: the others end with one cause, and the run resumes exactly."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.stopping import folder_in_memory

pytestmark = pytest.mark.slow

CASES = [
    f"{what} in {moment}, rank {lost}"
    for what in ("killed", "stopped")
    for moment in ("forward", "backward", "fill")
    for lost in (0, 1)
]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with folder_in_memory() as path:
        yield path


@pytest.fixture(scope="module")
def found(folder: Path, repository: Path) -> Any:
    script = str(Path(__file__).with_name("lost_ranks.py"))
    environment = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    # as for launch.py, so that torch does not warn on a machine that cannot resolve its own name
    environment["TORCH_CPP_LOG_LEVEL"] = "FATAL"
    done = subprocess.run(
        [sys.executable, script, str(folder)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", CASES)
def test_the_other_leaves_with_one_cause_and_the_run_goes_on(
    case: str, found: Any, folder: Path
) -> None:
    lost = int(case[-1])
    outcome = found[case]
    assert outcome["codes"][lost] == (-9 if case.startswith("killed") else "stopped")
    assert outcome["codes"][1 - lost] == 3
    said = outcome["said"][1 - lost]
    assert said.count("\n") == 1 and "another rank has left or does not answer" in said
    assert "checkpoint-2" in outcome["checkpoints"]
    assert "checkpoint-4" not in outcome["checkpoints"]
    assert outcome["resumed"]["codes"] == [0, 0], outcome["resumed"]["said"]
    for name in ("model/model.safetensors", "checkpoint-10/state/optimizer.safetensors"):
        assert (folder / case / name).read_bytes() == (folder / "whole" / name).read_bytes()


def test_a_rank_that_cannot_write_stops_all_and_harms_nothing(found: Any, folder: Path) -> None:
    outcome = found["a rank that cannot write"]
    assert outcome["codes"] == [3, 3]
    assert all(said.count("\n") == 1 for said in outcome["said"])
    assert "File too large" in outcome["said"][0] and "rank 0:" in outcome["said"][1]
    assert outcome["left"] == ["checkpoint-2"]
    weights = "model/model.safetensors"
    assert (folder / "full" / weights).read_bytes() == (folder / "whole" / weights).read_bytes()


def test_a_disk_may_be_slower_than_the_ranks_wait_for_each_other(found: Any, folder: Path) -> None:
    assert found["a slow disk"]["codes"] == [0, 0], found["a slow disk"]["said"]
    name = "checkpoint-10/state/optimizer.safetensors"
    assert (folder / "slow" / name).read_bytes() == (folder / "whole" / name).read_bytes()
