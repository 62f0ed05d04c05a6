"""The work per token: outside of layers it does not grow with them, and texts may join."""

import pytest
import torch

from tests.cuda.device import CUDA, Device, Trace
from tests.cuda.models import model_of
from trainer.generation.decoding import Decoding
from trainer.generation.logit_rules import (
    Rule,
    forced,
    growing_end,
    sequence_bias,
    suppressed,
    top_h,
    top_p,
    typical_p,
)
from trainer.generation.running_texts import RunningText, RunningTexts
from trainer.generation.settings import GenerationSettings
from trainer.generation.token_choice import ChoiceSettings


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


def test_texts_that_join_and_leave_need_one_wait_per_token() -> None:
    """Under any settings but log-probabilities, and whatever moved in the cache before."""
    penalties = {"frequency_penalty": 0.5, "logit_bias": {7: 1.0}}
    settings = [
        ChoiceSettings(GenerationSettings(8)),
        ChoiceSettings(GenerationSettings(8, min_new_tokens=2, repetition_penalty=1.2)),
        ChoiceSettings(GenerationSettings(8), **penalties),
    ]
    with Device() as device, torch.autocast("cuda", torch.bfloat16):
        batch = RunningTexts(device.place(model_of("llama", "causal_lm")).eval())
        texts = [RunningText(each, [5, 6, 7], frozenset({3})) for each in settings]
        for text in texts:
            reading = batch.read([text], 2)
            while not reading.advance():
                pass
            batch.join(reading)
        batch.remove(texts[0])
        batch.step()
        with device.traced() as trace:
            batch.step()
        drawn = ChoiceSettings(GenerationSettings(8, temperature=0.7, top_p=0.9), logprobs=2)
        reading = batch.read([RunningText(drawn, [8], frozenset())], 9)
        assert reading.advance() and len(batch.join(reading)) == 1
        assert len(batch.step()) == 3
    assert trace.waits.total() == 1


RULES = {"top_p": top_p(0.8, 1), "typical_p": typical_p(0.8, 1), "top_h": top_h(0.4)}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_rules_of_sums_work_with_deterministic_kernels(rule: Rule) -> None:
    """CUDA refuses cumulative sums of floats then."""
    torch.use_deterministic_algorithms(True)
    try:
        with Device() as device:
            ids = torch.ones(2, 3, dtype=torch.int64, device=CUDA)
            assert rule(ids, torch.ones(2, 97, device=CUDA)).shape == (2, 97)
            assert not device.trace.waits
    finally:
        torch.use_deterministic_algorithms(False)


OF_IDS = {
    "sequence_bias": sequence_bias({(5,): -2.0, (6, 7): -1e300, (9,): 10**20}),
    "suppressed": suppressed([5, 6]),
    "forced": forced([5], 3),
    "growing_end": growing_end([5, 6], 1, 1.5),
}


@pytest.mark.parametrize("rule", OF_IDS.values(), ids=OF_IDS)
def test_rules_of_ids_copy_them_once(rule: Rule) -> None:
    with Device() as device:
        ids = torch.ones(2, 3, dtype=torch.int64, device=CUDA)
        scores = torch.ones(2, 97, device=CUDA)
        rule(ids, scores)
        with device.traced() as trace:
            assert rule(ids, scores).shape == (2, 97)
    assert not trace.waits and not trace.copies, trace
