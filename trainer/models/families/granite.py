"""Granite (IBM, 2024): Llama with multipliers, as in maximal update parametrization.

Dimensions: T tokens, D channels.
"""

from torch import Tensor

from trainer.models.blocks.autocast import to_autocast_type
from trainer.models.blocks.decoder import Decoder, TokenEmbeddings
from trainer.models.blocks.decoder_layers import DecoderLayer
from trainer.models.blocks.fused_norm import add_and_norm
from trainer.models.blocks.layer_place import LayerPlace
from trainer.models.blocks.rotary_attention import RotaryAttention
from trainer.models.config import ModelConfig
from trainer.models.family import Family
from trainer.models.formats import decoder_format
from trainer.models.inputs import FlatInputs


class GraniteEmbeddings(TokenEmbeddings):
    """Scaled token embeddings; inputs_embeds are scaled too, as in transformers."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.multiplier = config.embedding_multiplier

    def forward(self, inputs: FlatInputs) -> Tensor:
        """[T, D]"""
        return to_autocast_type(inputs.embedded(self.token) * self.multiplier)


class GraniteAttention(RotaryAttention):
    def __init__(self, config: ModelConfig, place: LayerPlace) -> None:
        super().__init__(config, place)
        self.scale = config.attention_multiplier


class GraniteLayer(DecoderLayer):
    attention_class = GraniteAttention

    def __init__(self, config: ModelConfig, place: LayerPlace) -> None:
        super().__init__(config, place)
        self.multiplier = config.residual_multiplier

    def finished(self, x: Tensor, attended: Tensor, dropout_keys: Tensor | None) -> Tensor:
        x, normed = add_and_norm(x, attended * self.multiplier, self.feed_forward_norm)
        return x + self.feed_forward(normed) * self.multiplier


class Granite(Decoder):
    embeddings_class = GraniteEmbeddings
    layer_class = GraniteLayer

    def __init__(self, config: ModelConfig, pooler: bool) -> None:
        super().__init__(config, pooler)
        self.logit_scale = 1 / config.logits_scaling


FAMILY = Family(
    model_type="granite",
    name="Granite",
    prefix="model",
    defaults={
        **decoder_format.DEFAULTS,
        "vocab_size": 32000,
        "intermediate_size": 11008,
        "max_position_embeddings": 2048,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "attention_bias": False,
        "mlp_bias": False,
        "embedding_multiplier": 1.0,
        "logits_scaling": 1.0,
        "residual_multiplier": 1.0,
        "attention_multiplier": 1.0,
    },
    synonyms={"attention_output_bias": "attention_bias"},
    optional=decoder_format.OPTIONAL,
    required=decoder_format.REQUIRED,
    constants=decoder_format.CONSTANTS,
    body=Granite,
    keys=decoder_format.KEYS,
    kind="decoder",
    own_heads=decoder_format.OWN_HEADS,
    known_extras=decoder_format.EXTRAS,
)
