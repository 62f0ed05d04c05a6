"""Text recipes on 1, 2 and 4 processes give the same run in every layout."""

from typing import Any

import pytest
import torch

from tests.distributed.decoders import cases, strategies
from tests.distributed.results import results

pytestmark = pytest.mark.slow
LAYOUTS = [(n, name, how) for n in (2, 4) for name in cases(n) for how in strategies(n, name)]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    """The results of each number of processes."""
    return results("decoders", tmp_path_factory.mktemp("decoders"), (1, 2, 4), timeout=2700)


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
    ("world_size", "name", "strategy"), [(1, name, "ddp") for name in cases(1)] + LAYOUTS
)
def test_a_resumed_run_has_the_bits_of_one_that_never_stopped(
    found: dict[int, Any], world_size: int, name: str, strategy: str
) -> None:
    assert found[world_size][f"{name}, {strategy}, resumed"] == [True, True]


def test_evaluations_with_texts_are_refused_on_all_ranks_of_a_sharded_model(
    found: dict[int, Any],
) -> None:
    for said in found[2]["texts"]:
        assert said.startswith("recipe.evaluate_texts: found true with a sharded model; accepted: ")
