"""A tiny Llama, and a tokenizer with a chat template."""

import pytest
import torch

from tests.unit.text_runs import tokenizer
from trainer import AutoModelForCausalLM
from trainer.models.config import ModelConfig
from trainer.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def turns_tokenizer() -> Tokenizer:
    return tokenizer()


@pytest.fixture
def tiny_llama() -> AutoModelForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 320}
    config = ModelConfig({"model_type": "llama", "max_position_embeddings": 256, **sizes})
    return AutoModelForCausalLM.from_config(config)
