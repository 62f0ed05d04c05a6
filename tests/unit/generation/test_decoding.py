"""Decoding: what a conversation has said is computed once, and answers are the same."""

from typing import Any

import pytest
import torch

from trainer.generation.decoding import Decoding, Past
from trainer.generation.settings import GenerationSettings
from trainer.models.auto import AutoConfig, AutoModelForCausalLM

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 200,
    "initializer_range": 0.4,
}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "window": {"model_type": "mistral", "sliding_window": 4},
    "gpt2": {"model_type": "gpt2", "n_positions": 200, "n_embd": 16, "n_layer": 2, "n_head": 4},
    "lengths": {
        "model_type": "llama",
        "max_position_embeddings": 24,
        "rope_scaling": {"rope_type": "dynamic", "factor": 4.0},
    },
}
HOW = {"max_new_tokens": 6, "temperature": 1.0}
ASKED = [5, 9, 3]


def said(model: Any, ids: list[int], turn: int, past: Past | None, **settings: Any) -> list[int]:
    how = GenerationSettings(**{**HOW, **settings})
    decoding = Decoding(model, {turn: ids}, how, end_ids=(), past=past)
    found = []
    while decoding.rows:
        found.append(decoding.step()[turn])
    return found


@pytest.mark.parametrize("penalty", [1.0, 1.5])
@pytest.mark.parametrize("name", MODELS)
def test_turns_with_a_past_say_what_they_say_without(name: str, penalty: float) -> None:
    """A text that goes on, one whose past was rewritten, a shorter one, and the same again."""
    torch.manual_seed(0)
    config = AutoConfig({**SIZES, **MODELS[name]})
    model = AutoModelForCausalLM.from_config(config).double().eval()
    fed: list[int] = []
    model.register_forward_pre_hook(lambda _, arguments: fed.append(len(arguments[0])))
    past, ids, computed = Past(), list(ASKED), []
    for turn in range(3):
        fed.clear()
        answer = said(model, ids, turn, past, repetition_penalty=penalty)
        computed.append(fed[0])
        assert answer == said(model, ids, turn, None, repetition_penalty=penalty)
        assert past.ids == [*ids, *answer[:-1]]
        ids = [*ids, *answer, *ASKED]
    rewritten = [*ids[:7], 1, *ids[9:]]
    for text in (rewritten, rewritten[:4], rewritten[:4]):
        fed.clear()
        answer = said(model, text, 7, past, repetition_penalty=penalty)
        computed.append(fed[0])
        assert answer == said(model, text, 7, None, repetition_penalty=penalty)
    if name == "lengths":  # its keys would be others in a longer text
        assert computed == [3, 12, 21, len(rewritten), 4, 4]
    else:
        assert computed == [3, 4, 4, len(rewritten) - 7, 1, 1]
