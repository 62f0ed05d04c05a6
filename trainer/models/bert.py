"""BERT (Devlin et al., 2018), and what shares its format, such as MiniLM."""

from torch import nn

from trainer.models import bert_format
from trainer.models.config import ModelConfig
from trainer.models.encoder import Encoder
from trainer.models.family import Family, FamilyHead
from trainer.models.head_layers import ClassificationHead, MaskedLMHead


def _sequence_head(config: ModelConfig) -> nn.Module:
    dropout = bert_format.classifier_dropout(config)
    return ClassificationHead(config.hidden_size, config.num_labels, dropout=dropout)


def _choice_head(config: ModelConfig) -> nn.Module:
    dropout = bert_format.classifier_dropout(config)
    return ClassificationHead(config.hidden_size, 1, dropout=dropout)


def _masked_lm_head(config: ModelConfig) -> nn.Module:
    return MaskedLMHead(
        config.hidden_size,
        config.vocab_size,
        activation=config.hidden_act,
        layer_norm_eps=config.layer_norm_eps,
    )


_CLASSIFIER = {"classifier": "classifier"}

FAMILY = Family(
    model_type="bert",
    name="Bert",
    prefix="bert",
    defaults={**bert_format.DEFAULTS, "pad_token_id": 0},
    synonyms=bert_format.SYNONYMS,
    required=bert_format.REQUIRED,
    body=Encoder,
    keys=bert_format.KEYS,
    heads={
        "base": FamilyHead(build=None, pooler=True),
        "masked_lm": FamilyHead(
            build=_masked_lm_head,
            keys={
                "": "cls.predictions",
                "dense": "cls.predictions.transform.dense",
                "norm": "cls.predictions.transform.LayerNorm",
            },
            tied={
                "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
                "cls.predictions.decoder.bias": "cls.predictions.bias",
            },
        ),
        "multiple_choice": FamilyHead(build=_choice_head, keys=_CLASSIFIER, pooler=True),
        "question_answering": FamilyHead(
            build=bert_format.span_head, keys={"classifier": "qa_outputs"}
        ),
        "sequence_classification": FamilyHead(build=_sequence_head, keys=_CLASSIFIER, pooler=True),
        "token_classification": FamilyHead(build=bert_format.token_head, keys=_CLASSIFIER),
    },
    known_extras=("embeddings.position_ids", "pooler.*", "cls.seq_relationship.*"),
)
