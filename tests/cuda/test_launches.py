"""Ceilings of kernel launches: leaves are one kernel each, casts and gradients of weights few."""

import pytest
import torch

from tests.cuda.device import CUDA, Device
from tests.cuda.models import DECODERS, ENCODERS, batch_of, model_of
from trainer.losses import IGNORED, next_token_loss
from trainer.models.packing import Layout
from trainer.models.projection import Projection


def step(device: Device, model, batch):
    """The launches of one forward and backward pass, after one that made what is kept."""
    for _ in range(2):
        with device.traced() as trace:
            with torch.autocast("cuda", torch.bfloat16):
                hidden = model(**batch.inputs())[0]
            hidden.sum().backward()
        model.zero_grad(set_to_none=True)
    return trace


def per_layer(family: str, **entries) -> tuple[int, dict[str, int]]:
    """Launches that one more layer costs."""
    counts = []
    depth = {"distilbert": "n_layers", "gpt2": "n_layer"}.get(family, "num_hidden_layers")
    for layers in (1, 2):
        with Device() as device:
            model = device.place(model_of(family, **{**entries, depth: layers}))
            counts.append(step(device, model, batch_of([30, 9]).to(CUDA)))
    assert not counts[1].waits
    return counts[1].num_launches - counts[0].num_launches, counts[1].launches


CEILINGS = dict.fromkeys(ENCODERS, 42) | dict.fromkeys(DECODERS, 48) | {"modernbert": 46}


@pytest.mark.parametrize("family", [*ENCODERS, *DECODERS])
def test_a_layer_costs_few_launches(family: str) -> None:
    launches, kinds = per_layer(family)
    assert launches <= CEILINGS[family], (launches, kinds)


def test_turned_off_the_plain_functions_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPERING_LEAVES", "0")
    with Device() as device:
        model = device.place(model_of("bert"))
        launches = step(device, model, batch_of([5, 9]).to(CUDA)).launches
    assert not launches["_added_norm"] and launches["native_layer_norm"]


def test_with_deterministic_kernels_only_leaves_without_sums_are_compiled() -> None:
    torch.use_deterministic_algorithms(True)
    try:
        with Device() as device:
            model = device.place(model_of("gpt2"))
            launches = step(device, model, batch_of([5, 9]).to(CUDA)).launches
    finally:
        torch.use_deterministic_algorithms(False)
    assert not launches["_added_norm"] and launches["_kept_sum"]


@pytest.mark.parametrize("triton", [True, False], ids=["triton", "torch alone"])
@pytest.mark.parametrize("labelled", ["all", "some"])
def test_the_next_token_loss_takes_few_kernels_and_waits_for_nobody(
    triton: bool, labelled: str
) -> None:
    rows, words = 5000, 1 << 17
    with Device(triton=triton) as device:
        hidden = torch.ones(rows, 64, dtype=torch.bfloat16, device=CUDA, requires_grad=True)
        weight = torch.ones(words, 64, device=CUDA, requires_grad=True)
        labels = torch.ones(rows, dtype=torch.int64)
        labels[: 0 if labelled == "all" else 3000] = IGNORED
        moved = labels.to(CUDA)
        projection = Projection(hidden, weight, Layout(torch.tensor([rows]), CUDA))
        with device.traced() as trace:
            found = next_token_loss(projection, moved, host_labels=labels)
            found.sum.backward()
    chunks = 3 if labelled == "all" else 1
    assert trace.launches["mm"] + trace.launches["addmm"] == 3 * chunks
    assert trace.num_launches < 25 + (5 if triton else 16) * chunks, trace.launches
    assert not trace.waits, trace.waits
    assert hidden.grad.dtype == torch.bfloat16 and weight.grad.dtype == torch.float32
