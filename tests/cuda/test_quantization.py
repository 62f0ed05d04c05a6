"""Adapters beside packed weights on CUDA: a step waits for nothing, in the types of autocast."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from tests.cuda.device import CUDA, Device
from tests.cuda.models import batch_of, config_of
from trainer.models.adapters.lora_settings import LoRASettings
from trainer.models.auto import TASKS
from trainer.models.quantization.quantized_linear import quantized_layers

PACKAGES = {"int8": "torchao", "int4": "torchao", "nf4": "bitsandbytes"}

WITH_BACKWARD = ("int8", "int4")
"""nf4 has a table of its values on the device. A real device keeps it; the pretended one cannot."""


@pytest.mark.parametrize("kind", PACKAGES)
def test_a_step_beside_packed_weights(kind: str, tmp_path: Path) -> None:
    if find_spec(PACKAGES[kind]) is None:
        pytest.skip(f"needs {PACKAGES[kind]}")
    TASKS["causal_lm"].from_config(config_of("llama")).save_pretrained(tmp_path)
    model = TASKS["causal_lm"].from_pretrained(tmp_path, quantization=kind)
    model.add_lora(LoRASettings(rank=4, dropout=0.1))
    for precision in (torch.bfloat16, torch.float16, None):
        with Device((8, 0)) as device:
            placed = device.place(model)
            batch = batch_of([9, 33, 5, 17]).to(CUDA)
            labels = batch.input_ids.long() % 2
            with device.traced() as trace:
                with torch.autocast("cuda", precision or torch.bfloat16, enabled=bool(precision)):
                    outputs = placed(**batch.inputs(), labels=labels)
                if kind in WITH_BACKWARD:
                    outputs.loss.backward()
            table = () if kind in WITH_BACKWARD else ("normal_float.py",)
            assert [place for place in trace.waits if not any(t in place for t in table)] == []
            layers = quantized_layers(placed)
            assert layers and all(layer.packed.dtype == torch.uint8 for layer in layers.values())
            for parameter in placed.parameters() if kind in WITH_BACKWARD else ():
                assert (parameter.grad is not None) == parameter.requires_grad
                if parameter.grad is not None:
                    assert parameter.grad.device.type == "cuda"
                    assert parameter.grad.dtype == torch.float32
