"""Real processes over gloo: the numbers of 2 and 3 are those of one, and a resume is exact."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> dict[int, Any]:
    """What each number of processes found."""
    folder = tmp_path_factory.mktemp("layouts")
    environment = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    found = {}
    for world_size in (1, 2, 3):
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world_size}"]
        script = str(Path(__file__).with_name("layouts.py"))
        command = [sys.executable, *launcher, script, str(folder)]
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found[world_size] = json.loads((folder / f"{world_size}.json").read_text())
    return found


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("recipe", ["single_label", "weighted", "multi_label", "regression"])
def test_weights_and_evaluation_do_not_depend_on_processes(
    results: dict[int, Any], world_size: int, recipe: str
) -> None:
    alone, together = results[1][recipe], results[world_size][recipe]
    one, many = torch.tensor(alone[0]), torch.tensor(together[0])
    assert (one - many).norm() <= 1e-12 * one.norm()
    assert together[1].keys() == alone[1].keys()
    for name, value in alone[1].items():
        assert together[1][name] == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_a_resumed_run_has_the_bits_of_one_that_never_stopped(
    results: dict[int, Any], world_size: int
) -> None:
    assert results[world_size]["resumed"] is True
