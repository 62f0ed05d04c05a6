"""Small decoders that differ in what their keys and values depend on."""

from typing import Any

import torch

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
    "capped": {"model_type": "gemma2", "head_dim": 8, "sliding_window": 6},
    "gpt2": {"model_type": "gpt2", "n_positions": 200, "n_embd": 16, "n_layer": 2, "n_head": 4},
    "lengths": {
        "model_type": "llama",
        "max_position_embeddings": 24,
        "rope_scaling": {"rope_type": "dynamic", "factor": 4.0},
    },
}


def model_of(name: str) -> Any:
    """A random model in float64."""
    torch.manual_seed(0)
    config = AutoConfig({**SIZES, **MODELS[name]})
    return AutoModelForCausalLM.from_config(config).double().eval()
