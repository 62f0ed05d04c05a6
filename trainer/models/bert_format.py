"""What the files of BERT, RoBERTa and XLM-RoBERTa have in common: config entries and names."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from trainer.models.config import ModelConfig
from trainer.models.head_layers import TokenHead

DEFAULTS: Mapping[str, Any] = {
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
    "classifier_dropout": None,
    "tie_word_embeddings": True,
}

SYNONYMS = {"attention_output_dropout": "hidden_dropout_prob"}

REQUIRED = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}

KEYS = {
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
}


def classifier_dropout(config: ModelConfig) -> float:
    """The dropout before a classifier: that of the body where the config names no other."""
    dropout = config.classifier_dropout
    return config.hidden_dropout_prob if dropout is None else dropout


def token_head(config: ModelConfig) -> nn.Module:
    """One linear classifier over every token."""
    return TokenHead(config.hidden_size, config.num_labels, dropout=classifier_dropout(config))


def span_head(config: ModelConfig) -> nn.Module:
    """Scores of starts and ends."""
    return TokenHead(config.hidden_size, 2, dropout=0.0)
