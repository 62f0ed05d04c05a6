"""The shared format of BART, mBART and Marian: config entries, names, layers and embeddings.

Dimensions: T tokens, D channels.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from trainer.models.blocks.autocast import to_autocast_type
from trainer.models.blocks.dropout import Dropout
from trainer.models.blocks.encoder_decoder import SharedEmbeddings, Stack
from trainer.models.blocks.norms import LayerNorm
from trainer.models.config import ModelConfig
from trainer.models.inputs import FlatInputs

DEFAULTS: Mapping[str, Any] = {
    "max_position_embeddings": 1024,
    "d_model": 1024,
    "encoder_layers": 12,
    "encoder_ffn_dim": 4096,
    "encoder_attention_heads": 16,
    "decoder_layers": 12,
    "decoder_ffn_dim": 4096,
    "decoder_attention_heads": 16,
    "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
    "activation_function": "gelu",
    "dropout": 0.1,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "init_std": 0.02,
    "scale_embedding": False,
    "is_encoder_decoder": True,
    "use_cache": True,
    "tie_word_embeddings": True,
}
SYNONYMS: Mapping[str, str] = {
    "hidden_size": "d_model",
    "num_hidden_layers": "encoder_layers",
    "num_decoder_layers": "decoder_layers",
    "num_attention_heads": "encoder_attention_heads",
    "intermediate_size": "encoder_ffn_dim",
    "decoder_intermediate_size": "decoder_ffn_dim",
    "hidden_act": "activation_function",
    "initializer_range": "init_std",
}
CONSTANTS: Mapping[str, Any] = {"type_vocab_size": 0}
REQUIRED: Mapping[str, Any] = {
    "is_encoder_decoder": True,
    "is_decoder": False,
    "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
}
NO_EFFECT = frozenset(
    {
        *("classif_dropout", "classifier_dropout", "static_position_embeddings"),
        *(
            "normalize_before",
            "normalize_embedding",
            "add_final_layer_norm",
            "extra_pos_embeddings",
        ),
        *("add_bias_logits", "num_beams", "max_length", "bad_words_ids"),
        *("output_past", "force_bos_token_to_be_generated"),
        *("length_penalty", "early_stopping", "no_repeat_ngram_size", "min_length", "save_step"),
    }
)

LAYERS: Mapping[str, str] = {
    f"{side}_layers.*.{ours}": f"{side}.layers.*.{theirs}"
    for side in ("encoder", "decoder")
    for ours, theirs in {
        "attention.norm": "self_attn_layer_norm",
        "attention.query": "self_attn.q_proj",
        "attention.key": "self_attn.k_proj",
        "attention.value": "self_attn.v_proj",
        "attention.output": "self_attn.out_proj",
        "source_attention.norm": "encoder_attn_layer_norm",
        "source_attention.query": "encoder_attn.q_proj",
        "source_attention.source.key": "encoder_attn.k_proj",
        "source_attention.source.value": "encoder_attn.v_proj",
        "source_attention.output": "encoder_attn.out_proj",
        "feed_forward.norm": "final_layer_norm",
        "feed_forward.input": "fc1",
        "feed_forward.output": "fc2",
    }.items()
}
TIED = {
    "lm_head.weight": "shared.weight",
    "encoder.embed_tokens.weight": "shared.weight",
    "decoder.embed_tokens.weight": "shared.weight",
}


EMBEDDINGS: Mapping[str, str] = {
    "embeddings.token": "shared",
    **{
        f"embeddings.{side}.{ours}": f"{side}.{theirs}"
        for side in ("encoder", "decoder")
        for ours, theirs in {"position": "embed_positions", "norm": "layernorm_embedding"}.items()
    },
}
"""The names of the embeddings in families with learned positions."""

OFFSET = 2
"""The number of unused rows at the start of the position embeddings."""


class Embeddings(SharedEmbeddings):
    """Token embeddings of encoder and decoder, which have separate positions and norms."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.token = nn.Embedding(config.vocab_size, config.d_model, config.pad_token_id)
        self.encoder, self.decoder = Positions(config), Positions(config)
        self.scale = math.sqrt(config.d_model) if config.scale_embedding else 1.0
        self.encoder_bias = self.decoder_bias = None

    def forward(self, inputs: FlatInputs) -> Tensor:
        return self.encoder(self.token(inputs.input_ids) * self.scale, inputs)

    def of_decoder(self, inputs: FlatInputs) -> Tensor:
        return self.decoder(self.token(inputs.input_ids) * self.scale, inputs)


class Positions(nn.Module):
    """A module that adds learned positions, normalizes the sum and applies dropout."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.position = nn.Embedding(config.max_position_embeddings + OFFSET, config.d_model)
        self.norm = LayerNorm(config.d_model)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, inputs: FlatInputs) -> Tensor:
        """[T, D] -> [T, D]"""
        x = self.norm(x + self.position(inputs.position_ids + OFFSET))
        return self.dropout(to_autocast_type(x), inputs.dropout_keys)


def stacks(config: ModelConfig) -> tuple[Stack, Stack]:
    """The settings of the encoder's layers and of the decoder's."""
    size = config.d_model
    shared: dict[str, Any] = {
        "size": size,
        "activation": config.activation_function,
        "norm": partial(LayerNorm, size),
        "dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "activation_dropout": config.activation_dropout,
    }
    heads = config.encoder_attention_heads, config.decoder_attention_heads
    inner = config.encoder_ffn_dim, config.decoder_ffn_dim
    layers = config.encoder_layers, config.decoder_layers
    encoder, decoder = (
        Stack(num_layers=n, num_heads=h, channels=size // h, inner_size=i, **shared)
        for n, h, i in zip(layers, heads, inner, strict=True)
    )
    return encoder, decoder


class Unchanged(nn.Module):
    """A no-op after the last layer."""

    def forward(self, x: Tensor, dropout_keys: Tensor | None) -> Tensor:
        return x
