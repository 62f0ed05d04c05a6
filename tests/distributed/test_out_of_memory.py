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


@pytest.fixture(scope="module", params=[1, 2, pytest.param(4, marks=pytest.mark.slow)])
def found(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, repository: Path
) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("memory")
    environment = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={request.param}"]
    script = str(Path(__file__).with_name("out_of_memory.py"))
    command = [sys.executable, *launcher, script, str(folder)]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "out of memory; micro batches: <= " in done.stderr
    return {
        "processes": request.param,
        **json.loads((folder / f"{request.param}.json").read_text()),
    }


@pytest.mark.parametrize("moment,layer,accumulation,strategy", CASES)
def test_the_run_goes_on_in_smaller_micro_batches_to_the_same_weights(
    moment: str, layer: int, accumulation: int, strategy: str, found: dict[str, Any]
) -> None:
    weights, budget = found[f"{moment} {layer} {accumulation} {strategy}"]
    wanted, before = found["undisturbed"]
    if found["processes"] * accumulation < 12:  # else a micro batch is one of 11 samples
        assert budget < before / 4, "it was to be split"
    one, other = (torch.tensor(values, dtype=torch.float64) for values in (weights, wanted))
    assert (one - other).norm() <= 1e-12 * other.norm()
