"""The shared format of T5 and mT5: config entries, tensor names, and the body.

Dimensions: T tokens, D channels.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from trainer.errors import InputError
from trainer.models.blocks.activations import ACTIVATIONS
from trainer.models.blocks.autocast import to_autocast_type
from trainer.models.blocks.dropout import Dropout
from trainer.models.blocks.encoder_decoder import EncoderDecoder, SharedEmbeddings, Stack
from trainer.models.blocks.norms import RMSNorm
from trainer.models.blocks.relative_bias import RelativeBias
from trainer.models.config import ModelConfig
from trainer.models.inputs import FlatInputs

DEFAULTS: Mapping[str, Any] = {
    "d_model": 512,
    "d_kv": 64,
    "num_decoder_layers": None,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "dropout_rate": 0.1,
    "layer_norm_epsilon": 1e-6,
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "use_cache": True,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
    "tie_word_embeddings": True,
}
SYNONYMS: Mapping[str, str] = {
    "hidden_size": "d_model",
    "head_dim": "d_kv",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "d_ff",
}
REQUIRED: Mapping[str, Any] = {"is_encoder_decoder": True, "is_decoder": False}
NO_EFFECT = frozenset(
    {"n_positions", "output_past", "dense_act_fn", "is_gated_act", "classifier_dropout"}
)
CHOICES: Mapping[str, tuple[str, ...]] = {
    "feed_forward_proj": (*ACTIVATIONS, *(f"gated-{name}" for name in ACTIVATIONS))
}
CONSTANTS: Mapping[str, Any] = {
    "type_vocab_size": 0,
    "max_position_embeddings": 1 << 24,
    "hidden_act": "relu",
    "initializer_range": 1.0,
}
"""max_position_embeddings is large because sequences may have any length: all distances of at least
relative_attention_max_distance share a bias.
"""

KEYS: Mapping[str, str] = {
    "embeddings.token": "shared",
    "embeddings.encoder_bias.table": (
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias"
    ),
    "embeddings.decoder_bias.table": (
        "decoder.block.0.layer.0.SelfAttention.relative_attention_bias"
    ),
    "encoder_final.norm": "encoder.final_layer_norm",
    "decoder_final.norm": "decoder.final_layer_norm",
    **{
        f"{side}_layers.*.{ours}": f"{side}.block.*.layer.{theirs}"
        for side, last in (("encoder", 1), ("decoder", 2))
        for ours, theirs in {
            "attention.norm": "0.layer_norm",
            "attention.query": "0.SelfAttention.q",
            "attention.key": "0.SelfAttention.k",
            "attention.value": "0.SelfAttention.v",
            "attention.output": "0.SelfAttention.o",
            "source_attention.norm": "1.layer_norm",
            "source_attention.query": "1.EncDecAttention.q",
            "source_attention.source.key": "1.EncDecAttention.k",
            "source_attention.source.value": "1.EncDecAttention.v",
            "source_attention.output": "1.EncDecAttention.o",
            "feed_forward.norm": f"{last}.layer_norm",
            "feed_forward.gate": f"{last}.DenseReluDense.wi_0",
            "feed_forward.value": f"{last}.DenseReluDense.wi_1",
            "feed_forward.input": f"{last}.DenseReluDense.wi",
            "feed_forward.output": f"{last}.DenseReluDense.wo",
        }.items()
    },
}
EXTRAS = (
    "encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
    "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
)
TIED = {
    "lm_head.weight": "shared.weight",
    "encoder.embed_tokens.weight": "shared.weight",
    "decoder.embed_tokens.weight": "shared.weight",
}


class T5Embeddings(SharedEmbeddings):
    """Token embeddings; positions enter as biases of the attention scores."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.token = nn.Embedding(config.vocab_size, config.d_model)
        self.dropout = Dropout(config.dropout_rate)
        self.encoder_bias = _bias(config, bidirectional=True)
        self.decoder_bias = _bias(config, bidirectional=False)
        self.decoder_dropout = Dropout(config.dropout_rate)

    def forward(self, inputs: FlatInputs) -> Tensor:
        return self.dropout(to_autocast_type(self.token(inputs.input_ids)), inputs.dropout_keys)

    def of_decoder(self, inputs: FlatInputs) -> Tensor:
        x = to_autocast_type(self.token(inputs.input_ids))
        return self.decoder_dropout(x, inputs.dropout_keys)


class FinalNorm(nn.Module):
    """A norm and dropout after the last layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = Dropout(config.dropout_rate)

    def forward(self, x: Tensor, dropout_keys: Tensor | None) -> Tensor:
        """[T, D] -> [T, D]"""
        return self.dropout(self.norm(x), dropout_keys)


def body(config: ModelConfig, pooler: bool) -> EncoderDecoder:
    """Build the body of T5 (Raffel et al., 2020); with gating, that of T5 1.1, mT5 and Flan-T5."""
    assert not pooler, "these families have no pooler"
    activation = str(config.feed_forward_proj)
    gated = activation.startswith("gated-")
    activation = activation.removeprefix("gated-")
    stack = Stack(
        num_layers=config.num_layers,
        size=config.d_model,
        num_heads=config.num_heads,
        channels=config.d_kv,
        inner_size=config.d_ff,
        activation="gelu_new" if gated and activation == "gelu" else activation,
        norm=partial(RMSNorm, config.d_model, config.layer_norm_epsilon),
        dropout=config.dropout_rate,
        attention_dropout=config.dropout_rate,
        activation_dropout=config.dropout_rate,
        gated=gated,
        biases=False,
        pre_norm=True,
        scale=1.0,
    )
    layers = config.num_decoder_layers
    return EncoderDecoder(
        T5Embeddings(config),
        stack,
        stack if layers is None else replace(stack, num_layers=layers),
        partial(FinalNorm, config),
    )


def draw(config: ModelConfig, name: str, weight: Tensor) -> None:
    """Draw normal initial values. Their std is scaled, since T5 does not scale attention scores."""
    size, factor = config.d_model, config.initializer_factor
    spread = size**-0.5
    if name.endswith(("token.weight", "head.weight")):
        spread = 1.0
    elif name.endswith("query.weight"):
        spread = (size * config.d_kv) ** -0.5
    elif name.endswith("attention.output.weight"):
        spread = (config.num_heads * config.d_kv) ** -0.5
    elif name.endswith("feed_forward.output.weight"):
        spread = config.d_ff**-0.5
    weight.normal_(0.0, factor * spread)


def _bias(config: ModelConfig, bidirectional: bool) -> RelativeBias:
    buckets = config.relative_attention_num_buckets
    distance = config.relative_attention_max_distance
    exact = buckets // (4 if bidirectional else 2)
    if exact < 1 or not distance > exact:
        raise InputError(
            f"config.json: relative_attention_max_distance: found {distance} with "
            f"{buckets} buckets; accepted: 4 buckets or more, and a distance above half of them"
        )
    return RelativeBias(config.num_heads, buckets, distance, bidirectional)
