"""Placing a model in a process in which other code uses Accelerate."""

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from trainer.devices.options import DeviceOptions
from trainer.devices.placement import place
from trainer.settings import TrainSettings


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_process_may_have_used_accelerate_with_another_precision(precision: str) -> None:
    """As after training with transformers' Trainer in bf16, for example in a notebook."""
    AcceleratorState._reset_state(reset_partial_state=False)  # left by earlier tests
    Accelerator(mixed_precision="bf16", cpu=True)
    try:
        settings = TrainSettings(precision=precision)
        placed = place(nn.Linear(2, 2), settings, DeviceOptions(), lambda device, precision: "ddp")
        assert placed.precision == precision
        assert placed.accelerator.mixed_precision == "no"
    finally:
        AcceleratorState._reset_state(reset_partial_state=False)
