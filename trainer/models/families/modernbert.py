"""ModernBERT (Warner et al., 2024): an encoder for up to 8192 tokens.

Dimensions: T tokens of D channels in B sequences.
"""

import math
from functools import partial

from torch import Tensor, nn

from trainer.models.blocks.activations import ACTIVATIONS
from trainer.models.blocks.dropout import Dropout
from trainer.models.blocks.linear import Linear
from trainer.models.blocks.modern_encoder import ModernEncoder
from trainer.models.blocks.norms import LayerNorm
from trainer.models.config import ModelConfig
from trainer.models.family import Family, FamilyHead
from trainer.models.heads.layers import MaskedLMHead


class PredictionHead(nn.Module):
    """linear -> activation -> norm -> dropout -> linear, over tokens or sequences."""

    def __init__(self, config: ModelConfig, num_labels: int | None = None) -> None:
        super().__init__()
        size = config.hidden_size
        self.dense = Linear(size, size, bias=False)
        self.activation = ACTIVATIONS[config.classifier_activation]
        self.norm = LayerNorm(size, eps=config.layer_norm_eps, bias=False)
        self.dropout = Dropout(config.classifier_dropout)
        self.classifier = Linear(size, num_labels or config.num_labels)

    def forward(self, x: Tensor, keys: Tensor | None = None) -> Tensor:
        """x [T, D] or [B, D], dropout keys [T] or [B] -> logits [..., num_labels]."""
        x = self.norm(self.activation(self.dense(x)))
        return self.classifier(self.dropout(x, keys))


def _masked_lm_head(config: ModelConfig) -> nn.Module:
    return MaskedLMHead(
        config.hidden_size,
        config.vocab_size,
        activation=config.classifier_activation,
        layer_norm_eps=config.layer_norm_eps,
        inner_biases=False,
        own_weight=not config.tie_word_embeddings,
    )


def _draw(config: ModelConfig, name: str, weight: Tensor) -> None:
    """Draw truncated normal values.

    The std of layers that add to the residual stream, and of the head's dense and decoder layers,
    falls with the number of layers.
    """
    if name == "head.classifier.weight":
        spread = config.hidden_size**-0.5
    elif name.endswith((".output.weight", "head.dense.weight", "head.decoder.weight")):
        spread = config.initializer_range / math.sqrt(2 * config.num_hidden_layers)
    else:
        spread = config.initializer_range
    cutoff = config.initializer_cutoff_factor * spread
    nn.init.trunc_normal_(weight, std=spread, a=-cutoff, b=cutoff)


_HEAD_KEYS = {"dense": "head.dense", "norm": "head.norm", "classifier": "classifier"}

FAMILY = Family(
    model_type="modernbert",
    name="ModernBert",
    prefix="model",
    defaults={
        "vocab_size": 50368,
        "hidden_size": 768,
        "intermediate_size": 1152,
        "num_hidden_layers": 22,
        "num_attention_heads": 12,
        "hidden_activation": "gelu",
        "max_position_embeddings": 8192,
        "initializer_range": 0.02,
        "initializer_cutoff_factor": 2.0,
        "norm_eps": 1e-5,
        "pad_token_id": 50283,
        "eos_token_id": 50282,
        "bos_token_id": 50281,
        "cls_token_id": 50281,
        "sep_token_id": 50282,
        "attention_dropout": 0.0,
        "local_attention": 128,
        "embedding_dropout": 0.0,
        "mlp_dropout": 0.0,
        "classifier_pooling": "cls",
        "classifier_dropout": 0.0,
        "classifier_activation": "gelu",
        "tie_word_embeddings": True,
    },
    synonyms={"hidden_act": "hidden_activation", "layer_norm_eps": "norm_eps"},
    constants={"type_vocab_size": 0},
    optional={
        "layer_types": None,
        "rope_parameters": None,
        "global_attn_every_n_layers": 3,
        "local_rope_theta": 10_000.0,
        "global_rope_theta": 160_000.0,
    },
    required={
        "head_dim": None,
        "sliding_window": None,
        "rope_scaling": None,
        "norm_bias": False,
        "attention_bias": False,
        "mlp_bias": False,
        "classifier_bias": False,
        "decoder_bias": True,
        "sparse_prediction": False,
    },
    choices={"classifier_activation": tuple(ACTIVATIONS), "classifier_pooling": ("cls", "mean")},
    body=ModernEncoder,
    keys={
        "embeddings.token": "embeddings.tok_embeddings",
        "embeddings.norm": "embeddings.norm",
        "layers.*.attention_norm": "layers.*.attn_norm",
        "layers.*.attention.input": "layers.*.attn.Wqkv",
        "layers.*.attention.output": "layers.*.attn.Wo",
        "layers.*.feed_forward_norm": "layers.*.mlp_norm",
        "layers.*.feed_forward.input": "layers.*.mlp.Wi",
        "layers.*.feed_forward.output": "layers.*.mlp.Wo",
        "final_norm": "final_norm",
    },
    own_heads={
        "masked_lm": FamilyHead(
            build=_masked_lm_head,
            keys={
                "": "decoder",
                "dense": "head.dense",
                "norm": "head.norm",
                "decoder": "decoder",
            },
            tied={"decoder.weight": "embeddings.tok_embeddings.weight"},
        ),
        "multiple_choice": FamilyHead(build=partial(PredictionHead, num_labels=1), keys=_HEAD_KEYS),
        "question_answering": FamilyHead(build=PredictionHead, keys=_HEAD_KEYS),
        "sequence_classification": FamilyHead(build=PredictionHead, keys=_HEAD_KEYS),
        "token_classification": FamilyHead(build=PredictionHead, keys=_HEAD_KEYS),
    },
    draw=_draw,
)
