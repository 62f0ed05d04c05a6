"""Greedy texts for comparisons: models with few positions get shorter ones."""

from pathlib import Path

import pytest

from tests.unit.export.test_graphs import random_model
from trainer import AutoTokenizer
from trainer.export.gguf_folder import expected_bytes
from trainer.export.greedy import TOKENS, compare_greedy, greedy, prompts_of
from trainer.models.config import ModelConfig
from trainer.models.heads.causal_lm import CausalLMModel


@pytest.mark.parametrize("positions", [1, 2, 16, 24, 25, 48, 640])
def test_texts_fit_into_the_positions(positions: int, minilm: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    tokenizer.chat_template = "{{ messages[0].content }} a b c d e f g h i j k l m n o p"
    entries = {"model_type": "gpt2", "vocab_size": 30522, "n_positions": positions}
    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 1}
    model = CausalLMModel.from_config(ModelConfig({**entries, **sizes})).eval()
    prompts = prompts_of(model, tokenizer)
    texts = greedy(model, prompts)
    assert len(prompts) == 5 and all(prompts)
    assert {len(text) for text in texts} == {len(texts[0])}
    assert len(texts[0]) == TOKENS if positions > 47 else 1 <= len(texts[0]) <= TOKENS
    assert max(map(len, prompts)) + len(texts[0]) <= positions + 1
    agreement = compare_greedy(model, prompts, texts, texts, 0.0)
    assert agreement.wrong is None and agreement.agreed == agreement.compared > 0
    others = [[text[0] + 1, *text[1:]] for text in texts]
    assert compare_greedy(model, prompts, texts, others, 0.0).wrong


@pytest.mark.parametrize(
    "template",
    [
        "{% if messages[0].role != 'system' %}{{ raise_exception('no system') }}{% endif %}",
        {"tool_use": "{{ messages[0].content }}"},
    ],
)
def test_a_template_of_other_chats_leaves_the_texts(
    template: str | dict[str, str], minilm: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    model = random_model("mistral", "causal_lm")
    without = prompts_of(model, tokenizer)
    tokenizer.chat_template = template
    assert prompts_of(model, tokenizer) == without and len(without) == 4


def test_the_disk_space_of_a_quantized_file_counts_the_file_before_it() -> None:
    model = random_model("mistral", "causal_lm")
    size = expected_bytes(model, "fp16")
    assert expected_bytes(model, "fp32") == 2 * size
    assert size > expected_bytes(model, "q8_0") > size / 2
    for dtype, bits in (("q4_k_m", 4.9), ("q6_k", 6.6), ("q5_k_s", 5.6)):
        assert expected_bytes(model, dtype) > size * (1 + bits / 16)
