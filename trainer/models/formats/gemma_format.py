"""The shared format of all versions of Gemma: config entries and tensor names."""

from collections.abc import Mapping
from typing import Any

from trainer.models.formats import decoder_format

DEFAULTS: Mapping[str, Any] = {
    **{name: x for name, x in decoder_format.DEFAULTS.items() if name != "hidden_act"},
    "vocab_size": 256_000,
    "head_dim": 256,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
    "attention_bias": False,
    "tie_word_embeddings": True,
}

SYNONYMS: Mapping[str, str] = {"attention_output_bias": "attention_bias"}

REQUIRED: Mapping[str, Any] = {
    **decoder_format.REQUIRED,
    "use_bidirectional_attention": False,
}

LAYERED: Mapping[str, Any] = {
    **DEFAULTS,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "layer_types": None,
}
"""The entries of versions with local and global layers (Gemma 2 and 3)."""

LAYERED_SYNONYMS: Mapping[str, str] = {**SYNONYMS, "hidden_act": "hidden_activation"}

KEYS: Mapping[str, str] = {
    **decoder_format.KEYS,
    "layers.*.attended_norm": "layers.*.post_attention_layernorm",
    "layers.*.feed_forward_norm": "layers.*.pre_feedforward_layernorm",
    "layers.*.fed_forward_norm": "layers.*.post_feedforward_layernorm",
}
