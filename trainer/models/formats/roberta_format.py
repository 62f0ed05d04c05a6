"""The shared format of RoBERTa and its variants: BERT's body with other positions and heads."""

from torch import nn

from trainer.models.blocks.encoder import Encoder
from trainer.models.config import ModelConfig
from trainer.models.family import Family, FamilyHead
from trainer.models.formats import bert_format
from trainer.models.heads.layers import (
    FIRST_TOKEN_HEAD_KEYS,
    ClassificationHead,
    MaskedLMHead,
    first_token_head,
)


def roberta_family(model_type: str, name: str, vocab_size: int) -> Family:
    """Create the family of a model type whose class names on the hub start with `name`."""
    return Family(
        model_type=model_type,
        name=name,
        prefix="roberta",
        defaults={
            **bert_format.DEFAULTS,
            "vocab_size": vocab_size,
            "pad_token_id": 1,
            "bos_token_id": 0,
            "eos_token_id": 2,
        },
        synonyms=bert_format.SYNONYMS,
        required=bert_format.REQUIRED,
        body=Encoder,
        keys=bert_format.KEYS,
        own_heads=OWN_HEADS,
        known_extras=("embeddings.position_ids", "pooler.*"),
        positions_after_pad=True,
    )


def _choice_head(config: ModelConfig) -> nn.Module:
    return ClassificationHead(config.hidden_size, 1, dropout=config.hidden_dropout_prob)


def _masked_lm_head(config: ModelConfig) -> nn.Module:
    return MaskedLMHead(
        config.hidden_size,
        config.vocab_size,
        activation="gelu",  # even if the body has another activation
        layer_norm_eps=config.layer_norm_eps,
        own_weight=not config.tie_word_embeddings,
    )


OWN_HEADS = {
    "base": FamilyHead(pooler=True),
    "masked_lm": FamilyHead(
        build=_masked_lm_head,
        tied={
            "lm_head.decoder.weight": "embeddings.word_embeddings.weight",
            "lm_head.decoder.bias": "lm_head.bias",
        },
    ),
    "multiple_choice": FamilyHead(build=_choice_head, pooler=True),
    "sequence_classification": FamilyHead(build=first_token_head, keys=FIRST_TOKEN_HEAD_KEYS),
}
