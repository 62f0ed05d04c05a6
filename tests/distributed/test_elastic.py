"""2 -> 1 -> 4 -> 2 processes in one epoch: every sample once, as planned, and the same weights."""

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from tests.unit.test_exactness import ragged_table
from trainer.data.plan import GlobalBatchPlan

LEGS = [(2, 3, 2), (1, 0, 5), (4, 2, 9), (2, 0, 0)]
"""Processes, micro batch size (0: by tokens), and the step after which the part must stop."""


def run_leg(repository: Path, folder: Path, processes: int, *arguments: object) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    script = str(Path(__file__).with_name("elastic.py"))
    command = [sys.executable, *launcher, script, str(folder), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]


def samples_by_step(folder: Path) -> dict[int, list[int]]:
    found = defaultdict(list)
    for path in sorted(folder.glob("*-rank*.jsonl")):
        for line in path.read_text().splitlines():
            batch = json.loads(line)
            found[batch["step"]] += batch["samples"]
    return found


@pytest.mark.slow
def test_handed_from_2_to_1_to_4_to_2_processes(tmp_path: Path, repository: Path) -> None:
    for number, (processes, micro_batch_size, stop_at) in enumerate(LEGS):
        leg = (f"leg{number}", micro_batch_size, stop_at)
        run_leg(repository, tmp_path / "handed", processes, *leg)
    run_leg(repository, tmp_path / "alone", 1, "leg", 0, 0)
    plan = GlobalBatchPlan(ragged_table(131).lengths, 11, seed=42)
    planned = {step: sorted(plan.global_batch(step)) for step in range(plan.steps_per_epoch)}
    found = samples_by_step(tmp_path / "handed")
    assert {step: sorted(samples) for step, samples in found.items()} == planned
    assert sorted(sum(found.values(), [])) == list(range(131))
    handed, alone = (
        torch.tensor(json.loads((tmp_path / name / "weights.json").read_text()))
        for name in ("handed", "alone")
    )
    assert (handed - alone).norm() <= 1e-12 * alone.norm()
    steps = [
        json.loads(line)["step"]
        for line in (tmp_path / "handed" / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == sorted(steps) and steps[-1] == 12
