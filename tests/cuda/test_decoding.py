"""What a token costs beyond the arithmetic of layers is computed once, however many there are."""

import pytest
import torch

from tests.cuda.device import Device, Trace
from tests.cuda.models import model_of
from trainer.generation.decoding import Decoding
from trainer.generation.settings import GenerationSettings


def token_of(family: str, layers: int) -> Trace:
    """The third token of two texts."""
    depth = {"gpt2": "n_layer"}.get(family, "num_hidden_layers")
    with Device() as device:
        model = device.place(model_of(family, "causal_lm", **{depth: layers})).eval()
        settings = GenerationSettings(max_new_tokens=8)
        decoding = Decoding(model, {0: [5, 6, 7], 1: [8]}, settings, end_ids=[])
        for _ in range(3):
            with torch.autocast("cuda", torch.bfloat16), device.traced() as trace:
                decoding.step()
    return trace


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3", "gpt2"])
def test_copies_waits_masks_and_angles_do_not_grow_with_the_layers(family: str) -> None:
    one, four = token_of(family, 1), token_of(family, 4)
    assert one.copies == four.copies
    assert one.waits.total() == four.waits.total() == 1
    for shared in ("arange", "le", "ge", "bitwise_and", "cos", "sin", "reciprocal"):
        assert one.launches[shared] == four.launches[shared], shared
