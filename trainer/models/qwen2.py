"""Qwen2 (Yang et al., 2024): Llama with biases on queries, keys and values."""

from trainer.models import decoder_format
from trainer.models.decoder import Decoder
from trainer.models.family import Family

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
    heads=decoder_format.HEADS,
    known_extras=decoder_format.EXTRAS,
)
