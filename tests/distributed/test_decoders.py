"""Decoders by the recipes for text on 1, 2 and 4 processes: one run, however it is laid out."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed.decoders import cases, strategies
from tests.unit.text_runs import CASES

pytestmark = pytest.mark.slow
LAYOUTS = [(n, name, how) for n in (2, 4) for name in cases(n) for how in strategies(n)]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> dict[int, Any]:
    """What each number of processes came to."""
    folder = tmp_path_factory.mktemp("decoders")
    environment = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    script = str(Path(__file__).with_name("decoders.py"))
    for world_size in (1, 2, 4):
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world_size}"]
        command = [sys.executable, *launcher, script, str(folder)]
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, done.stderr[-3000:]
    return {n: json.loads((folder / f"{n}.json").read_text()) for n in (1, 2, 4)}


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize(("world_size", "name", "strategy"), LAYOUTS)
def test_any_layout_trains_evaluates_and_writes_as_one_process(
    found: dict[int, Any], world_size: int, name: str, strategy: str, accumulation: int
) -> None:
    alone, metrics, samples = found[1][f"{name}, ddp, 1"]
    together, figures, written = found[world_size][f"{name}, {strategy}, {accumulation}"]
    one, many = (torch.tensor(each, dtype=torch.float64) for each in (alone, together))
    assert (one - many).norm() <= 1e-12 * one.norm()
    assert figures == pytest.approx(metrics, rel=1e-9)
    assert written == samples


@pytest.mark.parametrize(
    ("world_size", "name", "strategy"), [(1, name, "ddp") for name in CASES] + LAYOUTS
)
def test_a_resumed_run_has_the_bits_of_one_that_never_stopped(
    found: dict[int, Any], world_size: int, name: str, strategy: str
) -> None:
    assert found[world_size][f"{name}, {strategy}, resumed"] == [True, True]
