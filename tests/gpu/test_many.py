"""Trainings on several GPUs over NCCL equal those on one: weights, evaluations, resumed runs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.gpu.many import HEADS, LAYOUTS

pytestmark = pytest.mark.gpu
SIZES = [n for n in (2, 4, 8) if n <= torch.cuda.device_count()] or [2]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> dict[int, Any]:
    """The results of each number of GPUs."""
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    folder = tmp_path_factory.mktemp("many")
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    script = str(Path(__file__).with_name("many.py"))
    for number in (1, *SIZES):
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={number}"]
        command = [sys.executable, *launcher, script, str(folder)]
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr[-3000:]
    return {n: json.loads((folder / f"{n}.json").read_text()) for n in (1, *SIZES)}


def far(one: list[float], other: list[float]) -> float:
    """The relative distance of two vectors of weights."""
    a, b = (torch.tensor(values, dtype=torch.float64) for values in (one, other))
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("number", SIZES)
def test_each_rank_has_a_gpu_of_its_own(number: int, found: dict[int, Any]) -> None:
    assert found[number]["devices"] == [f"cuda:{rank}" for rank in range(number)]


@pytest.mark.parametrize("number", SIZES)
@pytest.mark.parametrize("strategy,parts", LAYOUTS)
@pytest.mark.parametrize("head", HEADS)
def test_several_train_and_evaluate_as_one(
    head: str, strategy: str, parts: int, number: int, found: dict[int, Any]
) -> None:
    weights, loss = found[number][f"{head} {strategy} {parts}"]
    alone, wanted = found[1][f"{head} ddp 1"]
    assert far(weights, alone) <= 1e-12
    assert loss == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("number", SIZES)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("head", HEADS)
def test_several_in_bf16_go_the_way_of_one(
    head: str, strategy: str, number: int, found: dict[int, Any]
) -> None:
    weights = found[number][f"{head} {strategy} bf16"]
    assert far(weights, found[1][f"{head} ddp bf16"]) <= 0.005


@pytest.mark.parametrize("number", SIZES)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_resumed_run_has_the_bits_of_one_that_never_stopped(
    strategy: str, number: int, found: dict[int, Any]
) -> None:
    assert found[number][f"resumed {strategy}"]


@pytest.mark.parametrize("number", SIZES)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_rank_short_of_memory_changes_no_number(
    strategy: str, number: int, found: dict[int, Any]
) -> None:
    weights = found[number][f"short of memory {strategy}"]
    if weights is None:
        pytest.skip("a sharded pass can be left in the middle from torch 2.13 on")
    assert far(weights, found[1][f"{HEADS[1]} ddp 1"]) <= 1e-12
