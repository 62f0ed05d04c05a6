"""A rank runs out of memory anywhere in a pass: all ranks split batches equally."""

import json
from typing import Any

import pytest
import torch

from tests.distributed.forked import run_ranks
from tests.distributed.out_of_memory import CASES


@pytest.fixture(scope="module", params=[1, 2, pytest.param(4, marks=pytest.mark.slow)])
def found(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("memory")
    printed = run_ranks("out_of_memory", folder, [request.param], timeout=900)
    assert "out of memory; micro batches: <= " in printed
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
    if found["processes"] * accumulation < 12:  # otherwise a micro batch has 11 samples
        assert budget < before / 4, "it was to be split"
    one, other = (torch.tensor(values, dtype=torch.float64) for values in (weights, wanted))
    assert (one - other).norm() <= 1e-12 * other.norm()
