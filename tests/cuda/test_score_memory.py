"""GPUs without our Triton kernel hold no [B, H, L, L], whatever the settings of attention."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.cuda.device import CUDA, Device
from trainer.models.attention.grouped_attention import GroupedAttention
from trainer.models.attention.self_attention import AttentionCore
from trainer.models.grid_layout import GridLayout
from trainer.models.packing import Layout

WITHOUT_KERNEL = [
    ((7, 0), True, torch.float16),
    ((7, 5), True, torch.float32),
    ((8, 0), False, torch.float32),
    ((9, 0), False, torch.bfloat16),
    ((9, 0), True, torch.float64),
]
"""Capability, whether Triton is installed, and dtype: our kernel needs 8.0 and at most fp32."""
BATCH, HEADS, LENGTH, CHANNELS = 20, 4, 256, 16
SCORES = BATCH * HEADS * LENGTH * LENGTH
BLOCK = BATCH * HEADS * 128 * LENGTH
"""The scores of a block of queries: half of those of a batch"""


def layout_of(mask: str) -> Layout:
    lengths = torch.full((BATCH,), LENGTH)
    if mask == "flat":
        return Layout(lengths, CUDA)
    if mask == "with gaps":
        columns = torch.arange(LENGTH) + torch.arange(LENGTH) // 5
        width = 1200
        cells = (torch.arange(BATCH).unsqueeze(1) * width + columns).flatten().to(CUDA)
        return Layout(lengths, CUDA, width, cells, has_gaps=True)
    dtype = torch.float32 if mask == "numbers" else torch.bool
    heads = HEADS if mask == "heads" else 1
    pairs = torch.ones(BATCH, heads, LENGTH, LENGTH, dtype=dtype, device=CUDA)
    return GridLayout(lengths, CUDA, LENGTH, pairs=pairs)


def core_of(kind: str, dropout: float, window: int | None, softcap: float | None) -> Any:
    if kind == "both ways":
        return AttentionCore(HEADS * CHANNELS, HEADS, dropout).train()
    core = GroupedAttention(HEADS, 2, CHANNELS, dropout, window).train()
    core.softcap = softcap
    return core


def attended(core: Any, dtype: torch.dtype, layout: Layout, window: int | None) -> Tensor:
    grouped = isinstance(core, GroupedAttention)
    parts = [
        torch.ones(BATCH * LENGTH, n * CHANNELS, dtype=dtype, device=CUDA, requires_grad=True)
        for n in (HEADS, *(2 if grouped else HEADS,) * 2)
    ]
    keys = torch.ones(BATCH * LENGTH, dtype=torch.int32, device=CUDA)
    if grouped:
        context, _ = core.attend(*parts, layout, None, keys, False)
    else:
        context, _ = core.attend(*parts, layout, keys, False, window)
    return context


KINDS = ("both ways", "causal")
DROPOUTS, CAPS, WINDOWS = (0.0, 0.1), (None, 30.0), (None, 50)
MASKS = ("flat", "with gaps", "bool", "numbers", "heads")
SETTINGS = [
    setting
    for setting in product(KINDS, DROPOUTS, CAPS, WINDOWS, MASKS)
    if setting[0] == "causal" or setting[2] is None
]
CASES = [
    (*setting, WITHOUT_KERNEL[(number + number // len(MASKS)) % len(WITHOUT_KERNEL)])
    for number, setting in enumerate(SETTINGS)
]
"""Every setting on one GPU; every GPU with each kind of mask."""


@pytest.mark.parametrize(("kind", "dropout", "softcap", "window", "mask", "gpu"), CASES)
def test_no_scores_of_all_heads(kind, dropout, softcap, window, mask, gpu) -> None:
    capability, triton, dtype = gpu
    with Device(capability, triton=triton) as device:
        core = core_of(kind, dropout, window, softcap)
        layout = layout_of(mask)
        with device.traced() as trace:
            attended(core, dtype, layout, window).sum().backward()
    assert trace.largest <= max(BLOCK, SCORES // HEADS), trace.launches
    assert not trace.waits
