"""Gemma 2 (Gemma Team, 2024): sliding windows in every second layer, capped scores and logits."""

from trainer.models.blocks.decoder_layers import SandwichLayer
from trainer.models.blocks.gemma import CappedLogitsDecoder, OffsetRMSNorm, ScalarScaledAttention
from trainer.models.blocks.layer_place import LayerPlace
from trainer.models.config import ModelConfig
from trainer.models.family import Family
from trainer.models.formats import decoder_format, gemma_format


class CappedAttention(ScalarScaledAttention):
    """Attention whose scores are capped if config.attn_logit_softcapping is set."""

    def __init__(self, config: ModelConfig, place: LayerPlace) -> None:
        super().__init__(config, place)
        self.softcap = config.attn_logit_softcapping


class Gemma2Layer(SandwichLayer):
    norm = OffsetRMSNorm
    attention_class = CappedAttention


class Gemma2(CappedLogitsDecoder):
    layer_class = Gemma2Layer


FAMILY = Family(
    model_type="gemma2",
    name="Gemma2",
    prefix="model",
    defaults={
        **gemma_format.LAYERED,
        "max_position_embeddings": 8192,
        "final_logit_softcapping": 30.0,
        "attn_logit_softcapping": 50.0,
    },
    synonyms=gemma_format.LAYERED_SYNONYMS,
    optional=decoder_format.OPTIONAL,
    required=gemma_format.REQUIRED,
    constants={
        **decoder_format.CONSTANTS,
        "use_sliding_window": True,
        "sliding_window_pattern": 2,
    },
    no_effect=frozenset({"hidden_act", "cache_implementation"}),
    body=Gemma2,
    keys=gemma_format.KEYS,
    kind="decoder",
    own_heads=decoder_format.OWN_HEADS,
    known_extras=decoder_format.EXTRAS,
)
