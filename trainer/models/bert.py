"""BERT (Devlin et al., 2018), and what shares its format, such as MiniLM."""

from torch import nn

from trainer.models.config import ModelConfig
from trainer.models.encoder import Encoder
from trainer.models.family import Family, FamilyHead
from trainer.models.heads import ClassificationHead


def _classification_head(config: ModelConfig) -> nn.Module:
    dropout = config.classifier_dropout
    dropout = config.hidden_dropout_prob if dropout is None else dropout
    return ClassificationHead(config.hidden_size, config.num_labels, dropout=dropout)


FAMILY = Family(
    name="Bert",
    prefix="bert",
    defaults={
        "vocab_size": 30522,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
        "classifier_dropout": None,
    },
    synonyms={"attention_output_dropout": "hidden_dropout_prob"},
    required={
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "add_cross_attention": False,
    },
    body=Encoder,
    keys={
        "embeddings.token": "embeddings.word_embeddings",
        "embeddings.position": "embeddings.position_embeddings",
        "embeddings.token_type": "embeddings.token_type_embeddings",
        "embeddings.norm": "embeddings.LayerNorm",
        "layers.*.attention.query": "encoder.layer.*.attention.self.query",
        "layers.*.attention.key": "encoder.layer.*.attention.self.key",
        "layers.*.attention.value": "encoder.layer.*.attention.self.value",
        "layers.*.attention.output": "encoder.layer.*.attention.output.dense",
        "layers.*.attention_norm": "encoder.layer.*.attention.output.LayerNorm",
        "layers.*.feed_forward.input": "encoder.layer.*.intermediate.dense",
        "layers.*.feed_forward.output": "encoder.layer.*.output.dense",
        "layers.*.feed_forward_norm": "encoder.layer.*.output.LayerNorm",
        "pooler.dense": "pooler.dense",
    },
    heads={
        "base": FamilyHead(build=None, pooler=True),
        "sequence_classification": FamilyHead(
            build=_classification_head, keys={"classifier": "classifier"}, pooler=True
        ),
    },
    known_extras=("embeddings.position_ids", "cls.*", "classifier.*", "qa_outputs.*", "pooler.*"),
)
