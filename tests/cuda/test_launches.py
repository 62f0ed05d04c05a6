"""Upper limits of kernel launches: one per leaf, and few for casts and weight gradients."""

import pytest
import torch

from tests.cuda.device import CUDA, Device
from tests.cuda.models import BIASED, DECODERS, ENCODERS, EVERY_FAMILY, EXPERTS, batch_of, model_of
from trainer.models.adapters.lora_settings import LoRASettings
from trainer.models.heads.projection import Projection
from trainer.models.packing import Layout
from trainer.tasks.losses import IGNORED, next_token_loss


def step(device: Device, model, batch):
    """The launches of a forward and backward pass, after a first one that filled caches."""
    for _ in range(2):
        with device.traced() as trace:
            with torch.autocast("cuda", torch.bfloat16):
                hidden = model(**batch.inputs())[0]
            hidden.sum().backward()
        model.zero_grad(set_to_none=True)
    return trace


def per_layer(family: str, lora: LoRASettings | None = None) -> tuple[int, dict[str, int]]:
    """The launches of one additional layer."""
    counts = []
    depth = {"distilbert": "n_layers", "gpt2": "n_layer"}.get(family, "num_hidden_layers")
    for layers in (1, 2):
        with Device() as device:
            model = device.place(model_of(family, **{depth: layers}))
            if lora is not None:
                model.add_lora(lora, base="nowhere")
            counts.append(step(device, model, batch_of([30, 9]).to(CUDA)))
    assert not counts[1].waits
    return counts[1].num_launches - counts[0].num_launches, counts[1].launches


CEILINGS = dict.fromkeys(ENCODERS, 42) | dict.fromkeys(DECODERS, 48)
CEILINGS |= dict.fromkeys(("gemma2", "gemma3_text", "glm4"), 62) | {"olmo2": 50}  # more norms
CEILINGS |= {"modernbert": 46, "albert": 60}  # ALBERT adds up the gradients of its shared weights
CEILINGS |= dict.fromkeys(EXPERTS, 96)  # sorting tokens by their experts
CEILINGS |= dict.fromkeys(BIASED, 340)  # for two groups of lengths, in plain operations


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_a_layer_costs_few_launches(family: str) -> None:
    launches, kinds = per_layer(family)
    assert launches <= CEILINGS[family], (launches, kinds)


ADAPTED = {"bert": 6, "gpt2": 4, "llama": 7}
"""The linear layers of a layer"""


@pytest.mark.parametrize("family", ADAPTED)
def test_an_adapter_costs_few_launches(family: str) -> None:
    """11 for each linear layer, and a sum if several have the same input."""
    settings = LoRASettings(rank=4, dropout=0.1)
    launches, kinds = per_layer(family, settings)
    plain, _ = per_layer(family)
    assert kinds["_kept_sum"] >= ADAPTED[family], kinds
    assert launches <= plain + 8 * ADAPTED[family], (launches, plain, kinds)


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
