"""A rank that runs out of memory, anywhere in a pass: all split alike, and nothing else changes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed.out_of_memory import CASES


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> dict[int, Any]:
    folder = tmp_path_factory.mktemp("memory")
    environment = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    for world_size in (1, 2):
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world_size}"]
        script = str(Path(__file__).with_name("out_of_memory.py"))
        command = [sys.executable, *launcher, script, str(folder)]
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert "out of memory; micro batches: <= " in done.stderr
    return {n: json.loads((folder / f"{n}.json").read_text()) for n in (1, 2)}


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("moment,layer,accumulation", CASES)
def test_the_run_goes_on_in_smaller_micro_batches_to_the_same_weights(
    moment: str, layer: int, accumulation: int, world_size: int, found: dict[int, Any]
) -> None:
    weights, budget = found[world_size][f"{moment} {layer} {accumulation}"]
    wanted, before = found[1]["undisturbed"]
    assert budget < before / 4, "it was to be split"
    one, other = (torch.tensor(values, dtype=torch.float64) for values in (weights, wanted))
    assert (one - other).norm() <= 1e-12 * other.norm()
