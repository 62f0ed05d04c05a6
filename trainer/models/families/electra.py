"""ELECTRA (Clark et al., 2020): discriminators and generators, with narrow embeddings."""

from functools import partial

from torch import nn

from trainer.errors import InputError
from trainer.models.blocks.activations import ACTIVATIONS
from trainer.models.blocks.encoder import Embeddings, Encoder, ProjectedEmbeddings
from trainer.models.config import ModelConfig
from trainer.models.family import Family, FamilyHead
from trainer.models.formats import bert_format
from trainer.models.heads.layers import (
    FIRST_TOKEN_HEAD_KEYS,
    ClassificationHead,
    MaskedLMHead,
    first_token_head,
)

SUMMARY = {"summary_type": "first", "summary_use_proj": True}
"""The only supported way to summarize a sequence, which the published models use."""


class ElectraEncoder(Encoder):
    """BERT's encoder with embeddings that may be narrower than its layers."""

    def make_embeddings(self, config: ModelConfig) -> nn.Module:
        narrow = config.embedding_size != config.hidden_size
        return ProjectedEmbeddings(config) if narrow else Embeddings(config)


def _choice_head(config: ModelConfig) -> nn.Module:
    for name, accepted in SUMMARY.items():
        if (found := getattr(config, name)) != accepted:
            raise InputError(f"config.json: {name}: found {found!r}; accepted: {accepted}")
    activation = config.summary_activation
    if activation not in ACTIVATIONS:
        accepted = ", ".join(ACTIVATIONS)
        raise InputError(
            f"config.json: summary_activation: found {activation!r}; accepted: {accepted}"
        )
    dropout = config.summary_last_dropout
    return ClassificationHead(config.hidden_size, 1, dropout=dropout, dense=activation)


def _masked_lm_head(config: ModelConfig) -> nn.Module:
    return MaskedLMHead(
        config.hidden_size,
        config.vocab_size,
        activation="gelu",  # even if the body has another activation
        layer_norm_eps=config.layer_norm_eps,
        embedding_size=config.embedding_size,
        own_weight=not config.tie_word_embeddings,
    )


FAMILY = Family(
    model_type="electra",
    name="Electra",
    prefix="electra",
    defaults={
        **bert_format.DEFAULTS,
        "embedding_size": 128,
        "hidden_size": 256,
        "num_attention_heads": 4,
        "intermediate_size": 1024,
        **SUMMARY,
        "summary_activation": "gelu",
        "summary_last_dropout": 0.1,
        "pad_token_id": 0,
    },
    synonyms=bert_format.SYNONYMS,
    required=bert_format.REQUIRED,
    body=ElectraEncoder,
    keys={**bert_format.KEYS, "embeddings.projection": "embeddings_project"},
    own_heads={
        "masked_lm": FamilyHead(
            build=_masked_lm_head,
            keys={
                "": "generator_lm_head",
                "dense": "generator_predictions.dense",
                "norm": "generator_predictions.LayerNorm",
                "decoder": "generator_lm_head",
            },
            tied={"generator_lm_head.weight": "embeddings.word_embeddings.weight"},
        ),
        "multiple_choice": FamilyHead(
            build=_choice_head,
            keys={"dense": "sequence_summary.summary", "classifier": "classifier"},
        ),
        "replaced_token_detection": FamilyHead(),
        "sequence_classification": FamilyHead(
            build=partial(first_token_head, activation="gelu"), keys=FIRST_TOKEN_HEAD_KEYS
        ),
    },
    known_extras=("embeddings.position_ids",),
)
