"""Ranks that share the tokens of each text train like one process; any number can resume."""

from typing import Any

import pytest

from tests.distributed.context import CASES, sharing
from tests.distributed.heads import TIMEOUT
from tests.distributed.results import far, results

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    """The results of 4, 2 and 1 processes, in this order: later ones continue earlier runs."""
    return results("context", tmp_path_factory.mktemp("context"), (4, 2, 1), timeout=900)


LAYOUTS = [(name, n, size) for name in CASES for n in (2, 4) for size in sharing(name, n)]


@pytest.mark.parametrize(("name", "processes", "size"), LAYOUTS)
def test_any_split_of_the_tokens_trains_as_one_process(
    name: str, processes: int, size: int, found: dict[int, Any]
) -> None:
    """In float64, with dropout, whose masks depend only on the sample and the token."""
    alone, evaluated = found[1][f"{name} 1 ddp"]
    strategies = ("ddp", "fsdp") if name == "llama" else ("ddp",)
    for strategy in strategies:
        weights, metrics = found[processes][f"{name} {size} {strategy}"]
        assert far(weights, alone) <= 1e-12
        assert metrics == pytest.approx(evaluated, rel=1e-6)


def test_a_vector_of_each_text_may_be_another_ranks(found: dict[int, Any]) -> None:
    for processes in (2, 4):
        assert far(found[processes]["whole sequences"][0], found[1]["whole sequences"][0]) <= 1e-12


def test_a_checkpoint_continues_with_any_number_of_sharing_ranks(found: dict[int, Any]) -> None:
    never_stopped = found[1]["never stopped"][0]
    assert far(found[1]["from 2"][0], never_stopped) <= 1e-12
    assert far(found[2]["from 4"][0], never_stopped) <= 1e-12


def test_each_rank_computes_its_share(found: dict[int, Any]) -> None:
    split = found[2]["split"]
    one, other = split["own"]
    assert one + other == split["whole"][0] == split["whole"][1]
    assert abs(one - other) <= 0.2 * (one + other)


def test_impossible_requests_are_refused_in_one_line(found: dict[int, Any]) -> None:
    where = "launch.context_parallel: found"
    assert found[2]["refused"] == [
        f"{where} 3 for 2 processes; accepted: a divisor of their number",
        f"{where} 2, and BertForMaskedLM is not a decoder; accepted: 1",
        f"{where} 2 with trainer.compile=true; accepted: one of them",
        f"{where} 2 with output_router_logits, whose loss needs whole texts; "
        "accepted: 1, or model.config.output_router_logits=false",
        "recipe.adversarial: found 0.3 with launch.context_parallel=2; accepted: 0",
    ]


def test_all_groups_have_the_timeout_of_the_launch(found: dict[int, Any]) -> None:
    assert found[2]["timeouts"] == found[4]["timeouts"] == [TIMEOUT]
