"""DistilBERT (Sanh et al., 2019): BERT without token types and pooler."""

from torch import nn

from trainer.models.config import ModelConfig
from trainer.models.encoder import Encoder
from trainer.models.family import Family, FamilyHead
from trainer.models.heads import ClassificationHead


def _classification_head(config: ModelConfig) -> nn.Module:
    return ClassificationHead(
        config.hidden_size, config.num_labels, dropout=config.seq_classif_dropout, dense="relu"
    )


FAMILY = Family(
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
    },
    synonyms={
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "hidden_size": "dim",
        "intermediate_size": "hidden_dim",
        "hidden_dropout_prob": "dropout",
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
    heads={
        "base": FamilyHead(build=None),
        "sequence_classification": FamilyHead(
            build=_classification_head,
            keys={"dense": "pre_classifier", "classifier": "classifier"},
        ),
    },
    known_extras=(
        "embeddings.position_ids",
        "vocab_*",
        "pre_classifier.*",
        "classifier.*",
        "qa_outputs.*",
    ),
)
