"""Mistral (Jiang et al., 2023): Llama with a sliding window in every layer."""

from trainer.models.blocks.decoder import Decoder
from trainer.models.family import Family
from trainer.models.formats import decoder_format

FAMILY = Family(
    model_type="mistral",
    name="Mistral",
    prefix="model",
    defaults={
        **decoder_format.DEFAULTS,
        "vocab_size": 32000,
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 4096 * 32,
        "sliding_window": 4096,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    optional=decoder_format.OPTIONAL,
    required=decoder_format.REQUIRED,
    constants={**decoder_format.CONSTANTS, "use_sliding_window": True},
    body=Decoder,
    keys=decoder_format.KEYS,
    kind="decoder",
    own_heads=decoder_format.OWN_HEADS,
    known_extras=decoder_format.EXTRAS,
)
