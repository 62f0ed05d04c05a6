"""What the files of Llama, Mistral and Qwen have in common: config entries, names and heads."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from trainer.models.config import ModelConfig
from trainer.models.family import FamilyHead
from trainer.models.head_layers import ClassificationHead, TokenHead

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
    **dict.fromkeys(("rope_parameters", "rope_theta", "rope_scaling")),
    **dict.fromkeys(("num_key_value_heads", "head_dim")),
}

OPTIONAL: Mapping[str, Any] = {
    "classifier_dropout": None,
    "hidden_dropout": None,
    "original_max_position_embeddings": None,
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

EXTRAS = ("layers.*.self_attn.rotary_emb.inv_freq",)


def output_head(config: ModelConfig) -> nn.Module | None:
    """The output weights, where they are not the token embeddings."""
    if config.tie_word_embeddings:
        return None
    return nn.Linear(config.hidden_size, config.vocab_size, bias=False)


def sequence_head(config: ModelConfig) -> nn.Module:
    """A linear layer without bias, over the last token."""
    return ClassificationHead(config.hidden_size, config.num_labels, dropout=0.0, bias=False)


def token_head(config: ModelConfig) -> nn.Module:
    """dropout -> linear; of two optional entries for the dropout the first counts."""
    named = (config.classifier_dropout, config.hidden_dropout, 0.1)
    dropout = next(each for each in named if each is not None)
    return TokenHead(config.hidden_size, config.num_labels, dropout=dropout)


HEADS: Mapping[str, FamilyHead] = {
    "base": FamilyHead(build=None),
    "causal_lm": FamilyHead(
        build=output_head, keys={"": "lm_head"}, tied={"lm_head.weight": "embed_tokens.weight"}
    ),
    "sequence_classification": FamilyHead(build=sequence_head, keys={"classifier": "score"}),
    "token_classification": FamilyHead(build=token_head, keys={"classifier": "score"}),
}
