"""Results: what the ranks of a program of this folder have written, and how they are compared."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tests.distributed.forked import run_ranks


def results(
    module: str, folder: Path, world_sizes: Sequence[int], timeout: float
) -> dict[int, Any]:
    """The results of the `main` of a module on each number of ranks, which run in this order."""
    run_ranks(module, folder, world_sizes, timeout)
    return {n: json.loads((folder / f"{n}.json").read_text()) for n in sorted(world_sizes)}


def far(one: list[float], other: list[float]) -> float:
    """The relative distance of two vectors of weights."""
    a, b = (torch.tensor(values, dtype=torch.float64) for values in (one, other))
    return float((a - b).norm() / b.norm())
