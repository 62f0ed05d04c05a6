"""MPNet (Song et al., 2020): BERT's layers with RoBERTa's positions and a distance bias.

Dimensions: T tokens of D channels in B sequences, the longest of L tokens; H heads.
"""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from trainer.models.attention.biased_attention import BiasedAttention
from trainer.models.attention.pairs import Pairs
from trainer.models.attention.score_bias import DistanceBias
from trainer.models.blocks.encoder import Embeddings, Encoder, PositionedLayer
from trainer.models.blocks.relative_bias import RelativeBias
from trainer.models.config import ModelConfig
from trainer.models.family import Family
from trainer.models.formats import roberta_format
from trainer.models.inputs import FlatInputs

BUCKETS, LONGEST = 32, 128
"""The number of distance buckets; all distances of LONGEST tokens or more share the last bucket.
transformers uses these numbers and ignores the config."""


class MPNetEmbeddings(Embeddings):
    """Token and position embeddings, and the bias that all layers share."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.bias = RelativeBias(config.num_attention_heads, BUCKETS, LONGEST, bidirectional=True)


class DistanceAttention(BiasedAttention):
    """Attention with a bias for each head and distance."""

    def forward(
        self,
        x: Tensor,
        table: Tensor,
        pairs: Pairs,
        dropout_keys: Tensor | None,
        weights_wanted: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """x [T, D] -> ([T, D], probabilities [B, H, L, L] if wanted).

        `table` [H, 2 L - 1] holds each head's bias for every distance.
        """
        return self.attend(x, DistanceBias(table), pairs, dropout_keys, weights_wanted)


class MPNetEncoder(Encoder):
    """An encoder that adds a learned bias for each distance to the attention scores."""

    counts_gaps = True
    embeddings: MPNetEmbeddings

    def make_embeddings(self, config: ModelConfig) -> nn.Module:
        return MPNetEmbeddings(config)

    def make_layers(self, config: ModelConfig) -> Iterable[nn.Module]:
        size, heads = config.hidden_size, config.num_attention_heads
        dropout, scale = config.attention_probs_dropout_prob, (size // heads) ** -0.5
        for _ in range(config.num_hidden_layers):
            yield PositionedLayer(config, DistanceAttention(size, heads, dropout, scale))

    def shared_arguments(self, inputs: FlatInputs) -> tuple[Any, ...]:
        layout = inputs.layout
        return self.embeddings.bias(layout.longest), Pairs(layout, layout)


_LAYER = "encoder.layer.*"

FAMILY = Family(
    model_type="mpnet",
    name="MPNet",
    prefix="mpnet",
    defaults={
        "vocab_size": 30527,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "max_position_embeddings": 512,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-12,
        "relative_attention_num_buckets": BUCKETS,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "tie_word_embeddings": True,
    },
    synonyms={
        "attention_output_dropout": "hidden_dropout_prob",
        "feed_forward_dropout": "hidden_dropout_prob",
    },
    constants={"type_vocab_size": 0},
    choices={"relative_attention_num_buckets": (BUCKETS,), "pad_token_id": (1,)},
    body=MPNetEncoder,
    keys={
        "embeddings.token": "embeddings.word_embeddings",
        "embeddings.position": "embeddings.position_embeddings",
        "embeddings.norm": "embeddings.LayerNorm",
        "embeddings.bias.table": "encoder.relative_attention_bias",
        "layers.*.attention.query": f"{_LAYER}.attention.attn.q",
        "layers.*.attention.key": f"{_LAYER}.attention.attn.k",
        "layers.*.attention.value": f"{_LAYER}.attention.attn.v",
        "layers.*.attention.output": f"{_LAYER}.attention.attn.o",
        "layers.*.attention_norm": f"{_LAYER}.attention.LayerNorm",
        "layers.*.feed_forward.input": f"{_LAYER}.intermediate.dense",
        "layers.*.feed_forward.output": f"{_LAYER}.output.dense",
        "layers.*.feed_forward_norm": f"{_LAYER}.output.LayerNorm",
        "pooler.dense": "pooler.dense",
    },
    own_heads=roberta_format.OWN_HEADS,
    known_extras=("embeddings.position_ids", "pooler.*"),
    positions_after_pad=True,
)
