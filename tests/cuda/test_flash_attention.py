"""Attention dropout on CUDA: our Triton kernels, and nothing of size [L, L]."""

import pytest
import torch

from tests.cuda.device import CUDA, Device
from tests.cuda.models import batch_of, half, model_of

DROPPING = {
    "bert": {"attention_probs_dropout_prob": 0.1},
    "modernbert": {"attention_dropout": 0.1},
    "gpt2": {"attn_pdrop": 0.1},
    "qwen3": {"attention_dropout": 0.1, "head_dim": 16},
}


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("family", DROPPING)
def test_attention_dropout_keeps_nothing_of_the_length_squared(family, precision) -> None:
    lengths = [300, 17, 254]
    with Device() as device:
        model = device.place(model_of(family, **DROPPING[family]))
        batch = batch_of(lengths).to(CUDA)
        on = precision != "fp32"
        with device.traced() as trace:
            with torch.autocast("cuda", half(precision), enabled=on):
                hidden = model(**batch.inputs())[0]
            hidden.sum().backward()
    assert trace.launches["flash_attention"] == trace.launches["flash_attention_backward"] == 1
    assert trace.largest < 3 * 300 * 300
    assert not trace.waits


@pytest.mark.parametrize(
    ("capability", "triton", "switch"),
    [((7, 5), True, "1"), ((9, 0), False, "1"), ((9, 0), True, "0")],
    ids=["an older GPU", "without Triton", "turned off"],
)
def test_elsewhere_the_plain_path_drops(capability, triton, switch, monkeypatch) -> None:
    monkeypatch.setenv("TEMPERING_TRITON", switch)
    with Device(capability=capability, triton=triton) as device:
        model = device.place(model_of("bert"))
        with device.traced() as trace, torch.autocast("cuda", torch.float16):
            model(**batch_of([30, 5]).to(CUDA).inputs())
    assert not trace.launches["flash_attention"]


LENGTHS = [512, 30, 200, 40, 60, 490, 100, 20]


@pytest.mark.parametrize("checkpointing", [False, True], ids=["eager", "checkpointing"])
@pytest.mark.parametrize("family", DROPPING)
def test_an_older_gpu_holds_no_grid_much_larger_than_what_is_in_it(family, checkpointing) -> None:
    """Nor does the host wait for it, forward or backward. Blocks of 128 queries are computed."""
    with Device(capability=(7, 5)) as device:
        model = device.place(model_of(family, **DROPPING[family]))
        if checkpointing:
            model.gradient_checkpointing_enable()
        batch = batch_of(LENGTHS).to(CUDA)
        with device.traced() as trace:
            with torch.autocast("cuda", torch.float16):
                hidden = model(**batch.inputs())[0]
            hidden.sum().backward()
    assert trace.largest <= 2 * 4 * 128 * max(LENGTHS)  # the two longest sequences
    assert not trace.waits
    blocks = trace.launches["_softmax_backward_data"]
    assert trace.launches["_softmax"] == blocks * (2 + checkpointing) and blocks > 3


@pytest.mark.parametrize("capability,triton", [((7, 0), True), ((7, 5), True), ((9, 0), False)])
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize("family", ["bert", "gpt2", "qwen3"])
def test_without_our_kernel_equal_lengths_keep_no_scores(
    family, precision, capability, triton
) -> None:
    """A GPU that cannot run the Triton kernel holds one block of scores at a time."""
    length, batch = 512, 6
    with Device(capability=capability, triton=triton) as device:
        model = device.place(model_of(family, **DROPPING[family]))
        inputs = batch_of([length] * batch).to(CUDA).inputs()
        with device.traced() as trace:
            with torch.autocast("cuda", torch.float16, enabled=precision == "fp16"):
                hidden = model(**inputs)[0]
            hidden.sum().backward()
    assert trace.largest <= batch * 4 * 128 * length
    assert not trace.waits
