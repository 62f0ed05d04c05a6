"""Real processes over gloo: 2 and 3 give the same numbers as one, and resuming is exact."""

import json
from typing import Any

import pytest
import torch

from tests.distributed.forked import run_ranks


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    """The results of each number of processes."""
    folder = tmp_path_factory.mktemp("layouts")
    run_ranks("layouts", folder, (1, 2, 3), timeout=900)
    return {n: json.loads((folder / f"{n}.json").read_text()) for n in (1, 2, 3)}


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize(
    "recipe",
    [
        *["single_label", "weighted", "multi_label", "regression"],
        *["plain ragged rows", "plain a stream", "plain a collator", "plain its own loss"],
    ],
)
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
