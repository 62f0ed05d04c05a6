"""Llama (Touvron et al., 2023), and models in its format, such as SmolLM2 and TinyLlama."""

from trainer.models.blocks.decoder import Decoder
from trainer.models.family import Family
from trainer.models.formats import decoder_format

FAMILY = Family(
    model_type="llama",
    name="Llama",
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
    },
    synonyms={"attention_output_bias": "attention_bias"},
    optional=decoder_format.OPTIONAL,
    required=decoder_format.REQUIRED,
    constants=decoder_format.CONSTANTS,
    body=Decoder,
    keys=decoder_format.KEYS,
    kind="decoder",
    own_heads=decoder_format.OWN_HEADS,
    known_extras=decoder_format.EXTRAS,
)
