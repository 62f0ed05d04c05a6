"""The shared format of Llama, Mistral and Qwen: config entries, names and heads."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from trainer.models.config import ModelConfig
from trainer.models.family import FamilyHead
from trainer.models.heads.layers import ClassificationHead

DEFAULTS: Mapping[str, Any] = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "attention_dropout": 0.0,
    "use_cache": True,
    "tie_word_embeddings": False,
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id")),
    **dict.fromkeys(("rope_parameters", "rope_scaling")),
    **dict.fromkeys(("num_key_value_heads", "head_dim")),
}

OPTIONAL: Mapping[str, Any] = {
    "classifier_dropout": None,
    "hidden_dropout": None,
    "original_max_position_embeddings": None,
    "rope_theta": 10_000.0,
}

REQUIRED: Mapping[str, Any] = {
    "partial_rotary_factor": 1.0,
    "token_classification_bias": True,
}

CONSTANTS: Mapping[str, Any] = {
    "type_vocab_size": 0,
    "normed_heads": False,
    "attention_bias": False,
    "attention_output_bias": False,
    "mlp_bias": False,
    "sliding_window": None,
    "use_sliding_window": False,
    "max_window_layers": 0,
    "layer_types": None,
}

KEYS: Mapping[str, str] = {
    "embeddings.token": "embed_tokens",
    "layers.*.attention_norm": "layers.*.input_layernorm",
    "layers.*.attention.query": "layers.*.self_attn.q_proj",
    "layers.*.attention.key": "layers.*.self_attn.k_proj",
    "layers.*.attention.value": "layers.*.self_attn.v_proj",
    "layers.*.attention.output": "layers.*.self_attn.o_proj",
    "layers.*.attention.query_norm": "layers.*.self_attn.q_norm",
    "layers.*.attention.key_norm": "layers.*.self_attn.k_norm",
    "layers.*.feed_forward_norm": "layers.*.post_attention_layernorm",
    "layers.*.feed_forward.gate": "layers.*.mlp.gate_proj",
    "layers.*.feed_forward.input": "layers.*.mlp.up_proj",
    "layers.*.feed_forward.output": "layers.*.mlp.down_proj",
    "final_norm": "norm",
}

JOINED_FEED_FORWARD: Mapping[str, str] = {
    "layers.*.feed_forward.gate_and_input": "layers.*.mlp.gate_up_proj",
    "layers.*.feed_forward.output": "layers.*.mlp.down_proj",
}
"""The names of the modules of `JoinedFeedForward`."""

EXTRAS = ("layers.*.self_attn.rotary_emb.inv_freq",)


def sequence_head(config: ModelConfig) -> nn.Module:
    """Build a linear classifier without bias, which is applied to the last token."""
    return ClassificationHead(config.hidden_size, config.num_labels, dropout=0.0, bias=False)


OWN_HEADS: Mapping[str, FamilyHead] = {
    "sequence_classification": FamilyHead(build=sequence_head, keys={"classifier": "score"}),
    "token_classification": FamilyHead(keys={"classifier": "score"}),
}
