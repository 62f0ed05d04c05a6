"""Gemma (Gemma Team, 2024): Llama with larger heads, scaled embeddings, norms by 1 + weight."""

from trainer.models.blocks.activations import ACTIVATIONS
from trainer.models.blocks.decoder import Decoder
from trainer.models.blocks.decoder_layers import DecoderLayer
from trainer.models.blocks.gated_feed_forward import GatedFeedForward
from trainer.models.blocks.gemma import OffsetRMSNorm, RootScaledEmbeddings
from trainer.models.config import ModelConfig
from trainer.models.family import Family
from trainer.models.formats import decoder_format, gemma_format


class GemmaFeedForward(GatedFeedForward):
    """Gemma's feed-forward network. In its first config files, "gelu" means the tanh variant."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        if config.hidden_act == "gelu":
            self.activation = ACTIVATIONS["gelu_pytorch_tanh"]


class GemmaLayer(DecoderLayer):
    norm = OffsetRMSNorm
    feed_forward_class = GemmaFeedForward


class Gemma(Decoder):
    norm = OffsetRMSNorm
    embeddings_class = RootScaledEmbeddings
    layer_class = GemmaLayer


FAMILY = Family(
    model_type="gemma",
    name="Gemma",
    prefix="model",
    defaults={
        **gemma_format.DEFAULTS,
        "hidden_size": 3072,
        "intermediate_size": 24576,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "hidden_act": "gelu_pytorch_tanh",
        "max_position_embeddings": 8192,
    },
    synonyms=gemma_format.SYNONYMS,
    optional=decoder_format.OPTIONAL,
    required=gemma_format.REQUIRED,
    constants=decoder_format.CONSTANTS,
    no_effect=frozenset({"hidden_activation"}),
    body=Gemma,
    keys=decoder_format.KEYS,
    kind="decoder",
    own_heads=decoder_format.OWN_HEADS,
    known_extras=decoder_format.EXTRAS,
)
