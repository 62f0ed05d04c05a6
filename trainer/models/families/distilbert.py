"""DistilBERT (Sanh et al., 2019): BERT without token types or pooler."""

from functools import partial

from torch import nn

from trainer.models.blocks.encoder import Encoder
from trainer.models.config import ModelConfig
from trainer.models.family import Family, FamilyHead
from trainer.models.heads.layers import ClassificationHead, TokenHead


def _sequence_head(config: ModelConfig, num_labels: int | None = None) -> nn.Module:
    return ClassificationHead(
        config.hidden_size,
        config.num_labels if num_labels is None else num_labels,
        dropout=config.seq_classif_dropout,
        dense="relu",
    )


def _span_head(config: ModelConfig) -> nn.Module:
    return TokenHead(config.hidden_size, 2, dropout=config.qa_dropout)


_SEQUENCE_HEAD_KEYS = {"dense": "pre_classifier", "classifier": "classifier"}

FAMILY = Family(
    model_type="distilbert",
    name="DistilBert",
    prefix="distilbert",
    defaults={
        "vocab_size": 30522,
        "max_position_embeddings": 512,
        "n_layers": 6,
        "n_heads": 12,
        "dim": 768,
        "hidden_dim": 3072,
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "activation": "gelu",
        "initializer_range": 0.02,
        "qa_dropout": 0.1,
        "seq_classif_dropout": 0.2,
        "pad_token_id": 0,
        "tie_word_embeddings": True,
    },
    synonyms={
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "hidden_size": "dim",
        "intermediate_size": "hidden_dim",
        "hidden_dropout_prob": "dropout",
        "feed_forward_dropout": "dropout",
        "attention_probs_dropout_prob": "attention_dropout",
        "hidden_act": "activation",
    },
    constants={"layer_norm_eps": 1e-12, "type_vocab_size": 0, "attention_output_dropout": 0.0},
    required={"sinusoidal_pos_embds": False},
    body=Encoder,
    keys={
        "embeddings.token": "embeddings.word_embeddings",
        "embeddings.position": "embeddings.position_embeddings",
        "embeddings.norm": "embeddings.LayerNorm",
        "layers.*.attention.query": "transformer.layer.*.attention.q_lin",
        "layers.*.attention.key": "transformer.layer.*.attention.k_lin",
        "layers.*.attention.value": "transformer.layer.*.attention.v_lin",
        "layers.*.attention.output": "transformer.layer.*.attention.out_lin",
        "layers.*.attention_norm": "transformer.layer.*.sa_layer_norm",
        "layers.*.feed_forward.input": "transformer.layer.*.ffn.lin1",
        "layers.*.feed_forward.output": "transformer.layer.*.ffn.lin2",
        "layers.*.feed_forward_norm": "transformer.layer.*.output_layer_norm",
    },
    own_heads={
        "masked_lm": FamilyHead(
            keys={
                "": "vocab_projector",
                "dense": "vocab_transform",
                "norm": "vocab_layer_norm",
                "decoder": "vocab_projector",
            },
            tied={"vocab_projector.weight": "embeddings.word_embeddings.weight"},
        ),
        "multiple_choice": FamilyHead(
            build=partial(_sequence_head, num_labels=1), keys=_SEQUENCE_HEAD_KEYS
        ),
        "question_answering": FamilyHead(build=_span_head),
        "sequence_classification": FamilyHead(build=_sequence_head, keys=_SEQUENCE_HEAD_KEYS),
    },
    known_extras=("embeddings.position_ids",),
)
