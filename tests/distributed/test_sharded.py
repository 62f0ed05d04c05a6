"""Every head, whole and sharded, on 1, 2 and 4 processes: equal weights, evenly distributed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.heads import CASES
from tests.distributed.results import far, results
from tests.distributed.sharded import ADAPTED, OFFLOADED, QUANTIZED, SAVED, STEPS
from trainer.training.optim import elementwise_optimizers

pytestmark = pytest.mark.slow
LAYOUTS = [(n, how, parts) for n in (2, 4) for how in ("ddp", "fsdp") for parts in (1, 3)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sharded")


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[int, Any]:
    """The results of 4, 2 and 1 processes, in this order: later ones continue earlier runs."""
    return results("sharded", folder, (4, 2, 1), timeout=1800)


@pytest.mark.parametrize("world_size,strategy,accumulation", LAYOUTS)
@pytest.mark.parametrize("head", CASES)
def test_any_layout_trains_and_evaluates_as_one_process(
    head: str, world_size: int, strategy: str, accumulation: int, found: dict[int, Any]
) -> None:
    weights, facts, _ = found[world_size][f"{head} {strategy} {accumulation}"]
    alone, wanted, _ = found[1][f"{head} ddp 1"]
    assert far(weights, alone) <= 1e-12
    assert facts == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("head", OFFLOADED)
def test_state_on_the_host_changes_no_number(
    head: str, world_size: int, found: dict[int, Any]
) -> None:
    weights, facts = found[world_size][f"{head} offloaded"]
    alone, wanted, _ = found[1][f"{head} ddp 1"]
    assert far(weights, alone) <= 1e-12
    assert facts == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("merge", ["", ", merged"])
@pytest.mark.parametrize("head", ADAPTED)
def test_adapters_of_a_sharded_model(
    head: str, merge: str, world_size: int, folder: Path, found: dict[int, Any]
) -> None:
    name = f"{head} adapted{merge}"
    weights, facts = found[world_size][name]
    alone, wanted = found[1][name]
    assert far(weights, alone) <= 1e-12
    assert facts == pytest.approx(wanted, rel=1e-6)
    checkpoint = folder / f"{world_size} {name} run" / f"checkpoint-{STEPS}"
    assert not (checkpoint / "model.safetensors").exists()
    assert (checkpoint / "adapter_model.safetensors").exists()
    file = "model.safetensors" if merge else "adapter_model.safetensors"
    saved, reference = (load_file(folder / f"{n} {name}" / file) for n in (world_size, 1))
    assert saved.keys() == reference.keys()
    for key, tensor in saved.items():
        torch.testing.assert_close(tensor, reference[key], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("world_size", [2, 4])
def test_scales_of_a_sharded_model(world_size: int, folder: Path, found: dict[int, Any]) -> None:
    weights, facts = found[world_size]["scales"]
    alone, wanted = found[1]["scales"]
    assert far(weights, alone) <= 1e-12
    assert facts == pytest.approx(wanted, rel=1e-6)
    saved, reference = (
        load_file(folder / f"{n} scales" / "adapter_model.safetensors") for n in (world_size, 1)
    )
    assert any(name.endswith("ia3_l") for name in saved)
    assert saved.keys() == reference.keys()
    for key, tensor in saved.items():
        torch.testing.assert_close(tensor, reference[key], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("kind", QUANTIZED)
def test_adapters_beside_quantised_weights(
    kind: str, world_size: int, folder: Path, found: dict[int, Any]
) -> None:
    weights, facts, sharded = found[world_size][kind]
    alone, wanted, _ = found[1][kind]
    assert sharded == (QUANTIZED[kind] == "fsdp")
    assert far(weights, alone) <= 1e-12
    assert facts == pytest.approx(wanted, rel=1e-6)
    file = "model.safetensors" if sharded else "adapter_model.safetensors"
    saved, reference = (load_file(folder / f"{n} {kind}" / file) for n in (world_size, 1))
    assert saved.keys() == reference.keys()
    for key, tensor in saved.items():
        torch.testing.assert_close(tensor, reference[key], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("head", CASES)
@pytest.mark.usefixtures("found")
def test_a_sharded_model_ships_the_average_of_its_weights(head: str, folder: Path) -> None:
    saved = {n: load_file(folder / f"{n} {head}" / "model.safetensors") for n in (1, 2, 4)}
    for n in (2, 4):
        assert saved[n].keys() == saved[1].keys()
        for name, tensor in saved[n].items():
            torch.testing.assert_close(tensor, saved[1][name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_state_is_shared_out(world_size: int, found: dict[int, Any]) -> None:
    """Weights and average of each rank: its part of the whole, plus some uneven rows."""
    whole = found[world_size]["masked_lm ddp 1"][2][0]
    shares = found[world_size]["masked_lm fsdp 1"][2]
    assert sum(shares) == whole
    assert max(shares) <= 1.15 * whole / world_size


@pytest.mark.parametrize("before", ["ddp", "fsdp"])
@pytest.mark.parametrize("after", ["2 ddp", "2 fsdp", "1 ddp"])
def test_a_checkpoint_of_4_processes_goes_on_with_fewer(
    before: str, after: str, found: dict[int, Any]
) -> None:
    results = found[int(after[0])]
    handed = results[f"by 4 {before}, {after}"]
    assert far(handed, found[1]["never handed on"]) <= 1e-12


def test_auto_is_one_strategy_on_all_ranks(found: dict[int, Any]) -> None:
    assert found[2]["auto"] == [True, True]


@pytest.mark.usefixtures("found")
def test_only_state_is_in_parts(folder: Path) -> None:
    by_strategy = {how: folder / f"by 4 {how}" / f"checkpoint-{SAVED}" for how in ("ddp", "fsdp")}
    names = {
        how: {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()}
        for how, path in by_strategy.items()
    }
    parts = {
        f"state/{s}-{i:05d}-of-00004.safetensors" for s in ("optimizer", "ema") for i in range(1, 5)
    }
    wholes = {"state/optimizer.safetensors", "state/ema.safetensors"}
    assert names["fsdp"] - names["ddp"] == parts
    assert names["ddp"] - names["fsdp"] == wholes


def test_a_resumed_sharded_run_has_the_bits_of_one_that_never_stopped(
    found: dict[int, Any],
) -> None:
    assert found[2]["cut"] == found[2]["whole"]


@pytest.mark.parametrize("name", elementwise_optimizers())
def test_optimizers_step_over_rows_as_over_wholes(name: str, found: dict[int, Any]) -> None:
    assert far(found[2][f"{name} fsdp"], found[2][f"{name} ddp"]) <= 1e-12


@pytest.mark.parametrize("how", ["read", "drawn"])
def test_a_model_that_comes_layer_by_layer_is_the_same(how: str, found: dict[int, Any]) -> None:
    assert found[2][f"{how} lazily"] == found[2][f"{how} at once"]


@pytest.mark.parametrize("head", OFFLOADED)
def test_in_bf16_no_layer_stays_gathered(head: str, found: dict[int, Any]) -> None:
    assert found[2][f"{head} bytes, 1"] == found[2][f"{head} bytes, 3"] == 0


@pytest.mark.parametrize("head", OFFLOADED)
def test_in_bf16_sharding_changes_little(head: str, found: dict[int, Any]) -> None:
    """Compared with ddp, only the norms and biases of layers are rounded while they run."""
    assert 0 < far(found[2][f"{head} fsdp bf16"], found[2][f"{head} ddp bf16"]) <= 1e-4
