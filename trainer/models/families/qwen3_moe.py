"""Qwen3 MoE (Yang et al., 2025): Qwen3 with mixtures of experts in all or some layers."""

from torch import nn

from trainer.errors import InputError
from trainer.models.blocks.decoder_layers import DecoderLayer
from trainer.models.blocks.experts import MixtureOfExperts
from trainer.models.blocks.gated_feed_forward import GatedFeedForward
from trainer.models.blocks.layer_place import LayerPlace
from trainer.models.blocks.router_balance import BalancedDecoder
from trainer.models.config import ModelConfig
from trainer.models.family import Family
from trainer.models.formats import decoder_format, moe_format
from trainer.models.formats.expert_files import StoredExperts


class Qwen3MoeLayer(DecoderLayer):
    def make_feed_forward(self, config: ModelConfig, place: LayerPlace) -> nn.Module:
        dense = config.mlp_only_layers or []
        if not isinstance(dense, list) or not all(type(number) is int for number in dense):
            accepted = "a list of the numbers of layers"
            raise InputError(f"config.json: mlp_only_layers: found {dense!r}; accepted: {accepted}")
        if place.number in dense or (place.number + 1) % config.decoder_sparse_step:
            return GatedFeedForward(config)
        return MixtureOfExperts(config, config.moe_intermediate_size, config.norm_topk_prob)


class Qwen3Moe(BalancedDecoder):
    layer_class = Qwen3MoeLayer


FAMILY = Family(
    model_type="qwen3_moe",
    name="Qwen3Moe",
    prefix="model",
    defaults={
        **moe_format.DEFAULTS,
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 24,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "attention_bias": False,
        "use_sliding_window": False,
        "sliding_window": None,
        "decoder_sparse_step": 1,
        "moe_intermediate_size": 768,
        "num_experts_per_tok": 8,
        "num_experts": 128,
        "norm_topk_prob": False,
        "mlp_only_layers": None,
    },
    synonyms={"attention_output_bias": "attention_bias"},
    renamed={"num_local_experts": "num_experts"},
    optional=decoder_format.OPTIONAL,
    required=moe_format.REQUIRED,
    constants={**decoder_format.CONSTANTS, "normed_heads": True},
    no_effect=frozenset({"max_window_layers"}),
    body=Qwen3Moe,
    keys=moe_format.KEYS,
    kind="decoder",
    own_heads=decoder_format.OWN_HEADS,
    known_extras=decoder_format.EXTRAS,
    stored_experts=StoredExperts("mlp", "gate_proj", "up_proj", "down_proj"),
)
