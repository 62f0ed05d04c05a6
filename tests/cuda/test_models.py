"""Every family and head, forward and backward, with the kernels of each generation of GPUs."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.cuda.device import CUDA, Device
from tests.cuda.models import (
    BIASED,
    EVERY_FAMILY,
    EXPERTS,
    FAMILIES,
    FIRST,
    HEADS,
    WITHOUT_ATTENTION_DROPOUT,
    batch_of,
    config_of,
    half,
    head_of,
    model_of,
)
from trainer.models.adapters.lora_settings import LoRASettings

CASES = [
    pytest.param(family, head, marks=() if family in FIRST else pytest.mark.slow)
    for family in FAMILIES
    for head in HEADS
    if head in config_of(family).family.heads
]
PRECISIONS = ("fp32", "bf16", "fp16")
CAPABILITIES = ((7, 5), (8, 0), (9, 0))
VARIANTS = ("eager", "checkpointing", "lora")
ANY_TWO = [(p, c, (p + c) % 3) for p in range(3) for c in range(3)]
"""All pairs of precision, capability and variant."""
EACH = [(0, 0, 2), (1, 2, 0), (2, 1, 1)]
KEPT_IN_FP32 = ("sequence_classification",)
"""Heads whose logits are fp32 in every precision."""


def labels_of(head: str, ids: Tensor) -> dict[str, Tensor]:
    """The arguments of a head's loss, for sequences of 9, 33, 5 and 17 tokens."""
    if head == "base":
        return {}
    if head == "question_answering":
        places = torch.tensor([3, 20, 1, 4], device=CUDA)
        return {"start_positions": places, "end_positions": places}
    if head == "multiple_choice":
        return {"labels": torch.ones(2, dtype=torch.int64, device=CUDA)}
    if head == "sequence_classification":
        return {"labels": torch.ones(4, dtype=torch.int64, device=CUDA)}
    return {"labels": ids.long() % 2}


def parts_of(family: str, head: str) -> list[tuple[int, int, int]]:
    """All pairs for common heads; for the others each value once."""
    pairs = ANY_TWO if head == head_of(family) else EACH
    if family in EXPERTS:
        return [(1, c, v) for c, v in {(c, v) for _, c, v in pairs}]
    return pairs


@pytest.mark.parametrize(("family", "head"), CASES)
def test_a_step_of_a_model(family: str, head: str) -> None:
    for p, c, v in parts_of(family, head):
        precision, capability, variant = PRECISIONS[p], CAPABILITIES[c], VARIANTS[v]
        what = f"{precision} on {capability}, {variant}"
        with Device(capability) as device:
            model = device.place(model_of(family, head, **WITHOUT_ATTENTION_DROPOUT[family]))
            prepare(model, variant)
            batch = batch_of([9, 33, 5, 17]).to(CUDA)
            inputs = {**batch.inputs(), **labels_of(head, batch.input_ids)}
            if head == "multiple_choice":
                inputs["num_choices"] = 2
            with device.traced() as trace:
                with torch.autocast("cuda", half(precision), enabled=precision != "fp32"):
                    outputs = model(**inputs, output_hidden_states=True)
                loss = outputs.last_hidden_state.sum() if head == "base" else outputs.loss
                loss.backward()
            check_types(model, head, outputs, half(precision), what)
            varlen = capability >= (8, 0) and precision != "fp32"
            path = "_varlen_attn" if varlen else "_scaled_dot_product_efficient_attention"
            layers = 1 + (variant == "checkpointing")
            if any(getattr(module, "softcap", None) for module in model.modules()):
                assert not trace.launches[path], what  # this kernel has no cap
                path, layers = "flash_attention", layers if capability >= (8, 0) else 0
            if family in BIASED:
                layers = 0  # no kernel supports a bias
            assert trace.launches[path] == layers, (what, trace.launches)
            assert trace.launches[f"{path}_backward"] == min(layers, 1), what
            assert not trace.waits, (what, trace.waits)
            few = 3 if layers else 8  # without a kernel, groups' rows are copied to the device
            few = 20 if family in BIASED else few  # for queries and for keys
            assert trace.copies.total() <= few, (what, trace.copies)


def prepare(model: Any, variant: str) -> None:
    if variant == "checkpointing":
        model.gradient_checkpointing_enable()
    elif variant == "lora":
        model.add_lora(LoRASettings(rank=4, dropout=0.1), base="nowhere")


def check_types(model: Any, head: str, outputs: Any, dtype: torch.dtype, what: str) -> None:
    """Hidden states and inputs of the loss are in the run's dtype, gradients in the weights'."""
    for number, state in enumerate(outputs.hidden_states):
        assert state.dtype == dtype, (what, f"hidden state {number}")
    if head == "causal_lm":
        entering = outputs.projection.hidden
    elif head == "question_answering":
        entering = outputs.start_logits
    else:
        entering = outputs.last_hidden_state if head == "base" else outputs.logits
    assert entering.dtype == (torch.float32 if head in KEPT_IN_FP32 else dtype), (what, "logits")
    for name, parameter in model.named_parameters():
        unused = head == "base" and name.startswith("body.pooler")
        if parameter.requires_grad and not unused:
            assert parameter.grad is not None, (what, name)
            assert parameter.grad.dtype == parameter.dtype == torch.float32, (what, name)


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_a_padded_call_waits_once(family: str) -> None:
    """To read the lengths; holes and hidden first tokens cause no further wait."""
    mask = torch.ones(3, 12, dtype=torch.int64)
    mask[0, :4] = mask[1, 5] = mask[2, 9:] = 0
    with Device() as device:
        model = device.place(model_of(family, head_of(family), **WITHOUT_ATTENTION_DROPOUT[family]))
        ids, seen = torch.ones(3, 12, dtype=torch.int64, device=CUDA), mask.to(CUDA)
        for attention_mask in (None, seen):
            with device.traced() as trace:
                with torch.autocast("cuda", torch.bfloat16):
                    outputs = model(ids, attention_mask=attention_mask)
                outputs.logits.float().sum().backward()
            assert trace.waits.total() == (0 if attention_mask is None else 1), trace.waits
