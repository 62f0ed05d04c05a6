"""Qwen3 (Yang et al., 2025): Llama with normalized queries and keys, and heads of any size."""

from trainer.models.blocks.decoder import Decoder
from trainer.models.family import Family
from trainer.models.formats import decoder_format

FAMILY = Family(
    model_type="qwen3",
    name="Qwen3",
    prefix="model",
    defaults={
        **decoder_format.DEFAULTS,
        "vocab_size": 151936,
        "intermediate_size": 22016,
        "num_key_value_heads": 32,
        "head_dim": 128,
        "max_position_embeddings": 32768,
        "attention_bias": False,
        "use_sliding_window": False,
        "sliding_window": None,
        "max_window_layers": 28,
        "layer_types": None,
    },
    synonyms={"attention_output_bias": "attention_bias"},
    optional=decoder_format.OPTIONAL,
    required=decoder_format.REQUIRED,
    constants={**decoder_format.CONSTANTS, "normed_heads": True},
    body=Decoder,
    keys=decoder_format.KEYS,
    kind="decoder",
    own_heads=decoder_format.OWN_HEADS,
    known_extras=decoder_format.EXTRAS,
)
