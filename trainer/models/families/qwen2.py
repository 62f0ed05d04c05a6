"""Qwen2 (Yang et al., 2024): Llama with biases in the projections to queries, keys and values."""

from trainer.models.blocks.decoder import Decoder
from trainer.models.family import Family
from trainer.models.formats import decoder_format

FAMILY = Family(
    model_type="qwen2",
    name="Qwen2",
    prefix="model",
    defaults={
        **decoder_format.DEFAULTS,
        "vocab_size": 151936,
        "intermediate_size": 22016,
        "num_key_value_heads": 32,
        "max_position_embeddings": 32768,
        "use_sliding_window": False,
        "sliding_window": None,
        "max_window_layers": 28,
        "layer_types": None,
    },
    optional=decoder_format.OPTIONAL,
    required=decoder_format.REQUIRED,
    constants={**decoder_format.CONSTANTS, "attention_bias": True},
    body=Decoder,
    keys=decoder_format.KEYS,
    kind="decoder",
    own_heads=decoder_format.OWN_HEADS,
    known_extras=decoder_format.EXTRAS,
)
