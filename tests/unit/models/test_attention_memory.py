"""Attention dropout without Triton: the memory for the backward pass, and a warning about it."""

import logging

import pytest
import torch

from trainer.models.attention import flash_attention as module
from trainer.models.attention.self_attention import Attention
from trainer.models.packing import Layout

CPU = torch.device("cpu")


@pytest.mark.parametrize("channels", [64, 512])
def test_a_gpu_without_the_kernel_is_warned_of_once(
    channels: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "triton_runs_on", lambda device: False)
    module._warn_of_memory.cache_clear()
    with caplog.at_level(logging.WARNING, "trainer"):
        for device in (CPU, torch.device("cuda"), torch.device("cuda")):
            assert not module.fits_flash_kernel(device, torch.bfloat16, channels)
    assert len(caplog.messages) == 1 and "in blocks of queries" in caplog.messages[0]
    module._warn_of_memory.cache_clear()


def test_the_plain_path_keeps_17_bytes_a_score() -> None:
    """The measured ceiling of a layer in fp32: four grids of numbers and one of flags."""
    batch, heads, length = 4, 2, 64
    layer = Attention(32, heads, dropout=0.1).train()
    layout = Layout(torch.full((batch,), length), CPU)
    keys = torch.arange(batch * length, dtype=torch.int32)
    x = torch.randn(batch * length, 32, requires_grad=True)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        context, _ = layer(x, layout, keys)
    scores = batch * heads * length**2
    grids = sum(size for size in kept.values() if size >= scores)
    assert 4 * scores <= grids <= 17 * scores
    context.sum().backward()
