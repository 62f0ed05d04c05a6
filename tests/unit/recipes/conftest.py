"""A tiny Llama, and a tokenizer that knows turns."""

import pytest
import torch

from trainer import AutoModelForCausalLM
from trainer.models.config import ModelConfig
from trainer.tokenizer import Tokenizer

TEXTS = ["hello world, what is two and two? four, of course. why so?"] * 4


@pytest.fixture(scope="session")
def turns_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer.train(
        TEXTS, vocab_size=300, kind="gpt2", special_tokens=["<|im_start|>", "<|im_end|>"]
    )
    tokenizer.eos_token = tokenizer.pad_token = "<|im_end|>"  # as SmolLM2 has them
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return tokenizer


@pytest.fixture
def tiny_llama() -> AutoModelForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 320}
    config = ModelConfig({"model_type": "llama", "max_position_embeddings": 256, **sizes})
    return AutoModelForCausalLM.from_config(config)
