"""GLM-4-0414 (GLM team, 2025): rotates half of each head; norms before and after sublayers."""

from trainer.models.blocks.decoder import Decoder
from trainer.models.blocks.decoder_layers import SandwichLayer
from trainer.models.blocks.gated_feed_forward import JoinedFeedForward
from trainer.models.blocks.rotary_attention import NeighbourRotaryAttention
from trainer.models.family import Family
from trainer.models.formats import decoder_format


class Glm4Layer(SandwichLayer):
    attention_class = NeighbourRotaryAttention
    feed_forward_class = JoinedFeedForward


class Glm4(Decoder):
    layer_class = Glm4Layer


FAMILY = Family(
    model_type="glm4",
    name="Glm4",
    prefix="model",
    defaults={
        **decoder_format.DEFAULTS,
        "vocab_size": 151_552,
        "intermediate_size": 13696,
        "num_hidden_layers": 40,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "max_position_embeddings": 131_072,
        "rms_norm_eps": 1.5625e-7,
        "pad_token_id": 151_329,
        "attention_bias": True,
    },
    optional={**decoder_format.OPTIONAL, "partial_rotary_factor": 0.5},
    required={"token_classification_bias": True},
    constants=decoder_format.CONSTANTS,
    body=Glm4,
    keys={
        **decoder_format.KEYS,
        **decoder_format.JOINED_FEED_FORWARD,
        "layers.*.attended_norm": "layers.*.post_self_attn_layernorm",
        "layers.*.fed_forward_norm": "layers.*.post_mlp_layernorm",
    },
    kind="decoder",
    own_heads=decoder_format.OWN_HEADS,
    known_extras=decoder_format.EXTRAS,
)
