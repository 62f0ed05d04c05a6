"""The family that RoBERTa and XLM-RoBERTa are: BERT's body, fairseq's positions and heads."""

import torch
from torch import Tensor, nn

from trainer.models import bert_format
from trainer.models.config import ModelConfig
from trainer.models.dropout import Dropout
from trainer.models.encoder import Encoder
from trainer.models.family import Family, FamilyHead
from trainer.models.head_layers import ClassificationHead, MaskedLMHead
from trainer.models.linear import Linear


def roberta_family(model_type: str, name: str, vocab_size: int) -> Family:
    """The family of a model type and of the hub's class names that start with `name`."""
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
        heads=_HEADS,
        known_extras=("embeddings.position_ids", "pooler.*"),
        positions_after_pad=True,
    )


class RobertaClassificationHead(nn.Module):
    """dropout -> linear -> tanh -> dropout -> linear, over the first token of each sequence."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dropout = bert_format.classifier_dropout(config)
        self.dropout_before = Dropout(dropout)
        self.dense = Linear(config.hidden_size, config.hidden_size)
        self.dropout = Dropout(dropout)
        self.classifier = Linear(config.hidden_size, config.num_labels)

    def forward(self, first: Tensor, keys: Tensor | None = None) -> Tensor:
        """first [B, D], dropout keys [B] -> logits [B, num_labels]."""
        dense = torch.tanh(self.dense(self.dropout_before(first, keys)))
        return self.classifier(self.dropout(dense, keys))


def _choice_head(config: ModelConfig) -> nn.Module:
    return ClassificationHead(config.hidden_size, 1, dropout=config.hidden_dropout_prob)


def _masked_lm_head(config: ModelConfig) -> nn.Module:
    return MaskedLMHead(
        config.hidden_size,
        config.vocab_size,
        activation="gelu",  # whatever the body's
        layer_norm_eps=config.layer_norm_eps,
    )


_HEADS = {
    "base": FamilyHead(build=None, pooler=True),
    "masked_lm": FamilyHead(
        build=_masked_lm_head,
        keys={"": "lm_head", "dense": "lm_head.dense", "norm": "lm_head.layer_norm"},
        tied={
            "lm_head.decoder.weight": "embeddings.word_embeddings.weight",
            "lm_head.decoder.bias": "lm_head.bias",
        },
    ),
    "multiple_choice": FamilyHead(
        build=_choice_head, keys={"classifier": "classifier"}, pooler=True
    ),
    "question_answering": FamilyHead(
        build=bert_format.span_head, keys={"classifier": "qa_outputs"}
    ),
    "sequence_classification": FamilyHead(
        build=RobertaClassificationHead,
        keys={"dense": "classifier.dense", "classifier": "classifier.out_proj"},
    ),
    "token_classification": FamilyHead(
        build=bert_format.token_head, keys={"classifier": "classifier"}
    ),
}
