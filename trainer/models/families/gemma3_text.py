"""Gemma 3's language model (Gemma Team, 2025): five local layers for each global layer."""

from trainer.models.blocks.decoder_layers import SandwichLayer
from trainer.models.blocks.gemma import CappedLogitsDecoder, OffsetRMSNorm, ScalarScaledAttention
from trainer.models.blocks.layer_place import GLOBAL, LOCAL
from trainer.models.blocks.rope import Rope, read_rope
from trainer.models.config import ModelConfig
from trainer.models.family import Family, FamilyHead
from trainer.models.formats import decoder_format, gemma_format


class Gemma3Layer(SandwichLayer):
    norm = OffsetRMSNorm
    attention_class = ScalarScaledAttention


class Gemma3(CappedLogitsDecoder):
    """Gemma 3's body, in which the rotary positions of local and global layers differ."""

    layer_class = Gemma3Layer

    def make_ropes(self, config: ModelConfig, kinds: list[str]) -> list[Rope | None]:
        ropes = {kind: read_rope(config, kind) for kind in (LOCAL, GLOBAL)}
        return [ropes[kind] for kind in kinds]


FAMILY = Family(
    model_type="gemma3_text",
    name="Gemma3",
    prefix="model",
    defaults={
        **gemma_format.LAYERED,
        "vocab_size": 262_208,
        "max_position_embeddings": 131_072,
        "final_logit_softcapping": None,
    },
    synonyms=gemma_format.LAYERED_SYNONYMS,
    optional={
        **decoder_format.OPTIONAL,
        "rope_theta": 1_000_000.0,
        "rope_local_base_freq": 10_000.0,
        "sliding_window_pattern": 6,
    },
    required=gemma_format.REQUIRED,
    constants={**decoder_format.CONSTANTS, "use_sliding_window": True, "normed_heads": True},
    no_effect=frozenset(
        {
            *("hidden_act", "cache_implementation"),
            "attn_logit_softcapping",  # transformers' models do not read it
            "_sliding_window_pattern",  # present in addition to layer_types
        }
    ),
    body=Gemma3,
    keys=gemma_format.KEYS,
    kind="decoder",
    own_heads={
        **decoder_format.OWN_HEADS,
        "base": FamilyHead(class_suffix="TextModel"),
        "sequence_classification": FamilyHead(
            build=decoder_format.sequence_head,
            keys={"classifier": "score"},
            class_suffix="TextForSequenceClassification",
        ),
    },
    known_extras=decoder_format.EXTRAS,
)
