"""Ranks that split each layer train as one process does, save whole models and resume others."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from tests.distributed.heads import TIMEOUT
from tests.distributed.results import far, results
from tests.distributed.tensor import cases

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tensor")


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[int, Any]:
    """The results of 4, 2 and 1 processes, in this order: later ones continue earlier runs."""
    return results("tensor", folder, (4, 2, 1), timeout=900)


@pytest.mark.parametrize(("name", "processes"), [(c, n) for n in (2, 4) for c in cases(n)])
def test_split_layers_train_and_evaluate_as_whole_ones(
    name: str, processes: int, found: dict[int, Any]
) -> None:
    """Gradients are clipped, so that their norm counts too; 4 processes also shard rows."""
    weights, metrics, held = found[processes][name]
    alone, evaluated, whole = found[1][name]
    assert far(weights, alone) <= 1e-12
    assert metrics == pytest.approx(evaluated, rel=1e-6)
    assert max(held) <= 0.6 * whole[0] / (processes / 2)


def test_checkpoints_are_continued_by_any_other_layout(found: dict[int, Any]) -> None:
    """With the same moments and averages, each written once."""
    wanted, state = found[1]["one whole"]
    taken = {name: value for name, value in found[2].items() if name.startswith("tensor ")}
    taken |= {name: value for name, value in found[1].items() if name.startswith("one by")}
    assert len(taken) == 4
    for name, (weights, moments) in taken.items():
        assert far(weights, wanted) <= 1e-12, name
        assert moments == pytest.approx(state, rel=1e-10), name


@pytest.mark.usefixtures("found")
def test_whole_models_are_saved(folder: Path) -> None:
    """Files that transformers loads, equal to those of one process."""
    one, two, four = (load_file(folder / f"saved by {n}" / "model.safetensors") for n in (1, 2, 4))
    assert one.keys() == two.keys() == four.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(four[name], tensor, rtol=1e-10, atol=1e-12)
    transformers.AutoModelForCausalLM.from_pretrained(folder / "saved by 4")


def test_impossible_requests_are_refused_in_one_line(found: dict[int, Any]) -> None:
    where = "launch.tensor_parallel: found"
    others = "layers.0 has other projections than query, key, value and gate; accepted: 1"
    assert found[2]["refused"] == [
        f"{where} 3 for 2 processes; accepted: a divisor of their number",
        f"{where} 2 with launch.strategy=ddp; accepted: fsdp, or auto",
        f"{where} 2 with trainer.activation_offload=true; accepted: one of them",
        f"{where} 2, and layers.0 has 1 key heads; accepted: a divisor of 1",
        f"{where} 2, and layers.0 has 41 inner channels; accepted: a divisor of 41",
        f"{where} 2, and layers.0 drops attention (p=0.1); accepted: 1, or attention_dropout=0",
        f"{where} 2, and layers.0 normalizes all heads together; accepted: 1",
        f"{where} 2, and {others}",
        f"{where} 2, and BertForMaskedLM is not a decoder; accepted: 1",
        "recipe.adversarial: found 0.3 with launch.tensor_parallel=2; accepted: 0",
    ]


def test_all_groups_have_the_timeout_of_the_launch(found: dict[int, Any]) -> None:
    assert found[2]["timeouts"] == found[4]["timeouts"] == [TIMEOUT]
