"""Mixtral (Jiang et al., 2024): Mistral with a mixture of experts, two experts per token."""

from torch import nn

from trainer.models.blocks.decoder_layers import DecoderLayer
from trainer.models.blocks.experts import MixtureOfExperts
from trainer.models.blocks.layer_place import LayerPlace
from trainer.models.blocks.router_balance import BalancedDecoder
from trainer.models.config import ModelConfig
from trainer.models.family import Family
from trainer.models.formats import decoder_format, moe_format
from trainer.models.formats.expert_files import StoredExperts


class MixtralLayer(DecoderLayer):
    def make_feed_forward(self, config: ModelConfig, place: LayerPlace) -> nn.Module:
        return MixtureOfExperts(config, config.intermediate_size, normalizes=True)


class Mixtral(BalancedDecoder):
    layer_class = MixtralLayer


FAMILY = Family(
    model_type="mixtral",
    name="Mixtral",
    prefix="model",
    defaults={
        **moe_format.DEFAULTS,
        "vocab_size": 32000,
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 4096 * 32,
        "sliding_window": None,
        "rms_norm_eps": 1e-5,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "num_experts_per_tok": 2,
        "num_local_experts": 8,
        "router_jitter_noise": 0.0,
    },
    synonyms={"num_experts": "num_local_experts"},
    optional={**decoder_format.OPTIONAL, "rope_theta": 1_000_000.0},
    required={**moe_format.REQUIRED, "router_jitter_noise": 0.0},
    constants={**decoder_format.CONSTANTS, "use_sliding_window": True},
    body=Mixtral,
    keys=moe_format.KEYS,
    kind="decoder",
    own_heads=decoder_format.OWN_HEADS,
    known_extras=decoder_format.EXTRAS,
    stored_experts=StoredExperts("block_sparse_moe", "w1", "w3", "w2"),
)
