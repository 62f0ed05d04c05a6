"""The bidirectional post-norm encoder of BERT and related families, for flat batches.

Dimensions: T tokens of D channels in B sequences.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from trainer.models.attention.pairs import Pairs
from trainer.models.attention.self_attention import Attention
from trainer.models.blocks.activations import ACTIVATIONS
from trainer.models.blocks.autocast import to_autocast_type
from trainer.models.blocks.dropout import Dropout
from trainer.models.blocks.fused_norm import add_and_norm
from trainer.models.blocks.linear import Linear
from trainer.models.blocks.norms import LayerNorm
from trainer.models.body import Body, Encoded, Trace
from trainer.models.config import ModelConfig
from trainer.models.inputs import FlatInputs
from trainer.models.packing import Layout


class Encoder(Body):
    """Embeddings, layers and, for heads that need one, a pooler (Devlin et al., 2018).

    Families with other embeddings, layers or positions override the methods that build them.
    """

    keeps_first_column = True
    only_ids = False
    pooler: "Pooler | None"

    def __init__(self, config: ModelConfig, pooler: bool) -> None:
        super().__init__()
        self.embeddings = self.make_embeddings(config)
        self.layers = nn.ModuleList(self.make_layers(config))
        self.pooler = Pooler(config.hidden_size) if pooler else None

    def make_embeddings(self, config: ModelConfig) -> nn.Module:
        """The module that turns `FlatInputs` into vectors [T, D]."""
        return Embeddings(config)

    def make_layers(self, config: ModelConfig) -> Iterable[nn.Module]:
        """The layers in execution order."""
        return (EncoderLayer(config) for _ in range(config.num_hidden_layers))

    def shared_arguments(self, inputs: FlatInputs) -> tuple[Any, ...]:
        """The arguments of every layer after x: positions, if any, and the layout."""
        return (inputs.layout,)

    def passes(self, dropout_keys: Tensor | None) -> Iterator[tuple[nn.Module, Tensor | None]]:
        """The layers to run in a forward pass, in order, each with its dropout keys."""
        for layer in self.layers:
            yield layer, dropout_keys

    def forward(
        self, inputs: FlatInputs, hidden_states_wanted: bool, attentions_wanted: bool
    ) -> Encoded:
        x = self.embeddings(inputs)
        shared = self.shared_arguments(inputs)
        trace = Trace(inputs.layout, hidden_states_wanted)
        attentions: list[Tensor] = []
        for layer, keys in self.passes(inputs.dropout_keys):
            x = trace.record(x)
            arguments = (x, *shared, keys, attentions_wanted)
            x, weights = self.run_layer(layer, arguments)
            if weights is not None:
                attentions.append(weights)
        x = trace.record(x)
        first = x.index_select(0, inputs.layout.first_tokens)
        return Encoded(
            tokens=x,
            pooled=first if self.pooler is None else self.pooler(first),
            hidden_states=trace.recorded,
            attentions=tuple(attentions) if attentions_wanted else None,
        )


class Embeddings(nn.Module):
    """The sum of the token, position and token type embeddings that the family has."""

    def __init__(
        self, config: ModelConfig, size: int | None = None, positions: bool = True
    ) -> None:
        """`size` is the embeddings' width if it differs from the layers'."""
        super().__init__()
        size = config.hidden_size if size is None else size
        self.token = nn.Embedding(config.vocab_size, size, padding_idx=config.pad_token_id)
        pad = config.pad_token_id if config.family.positions_after_pad else None
        length, types = config.max_position_embeddings, config.type_vocab_size
        self.position = nn.Embedding(length, size, padding_idx=pad) if positions else None
        self.token_type = nn.Embedding(types, size) if types else None
        self.norm = LayerNorm(size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, inputs: FlatInputs) -> Tensor:
        """[T, size], in the dtype of the active autocast, if any, so that later layers use it."""
        x = inputs.embedded(self.token)
        if self.token_type is not None:
            types = inputs.token_type_ids
            x = x + (self.token_type.weight[0] if types is None else self.token_type(types))
        if self.position is not None:
            x = x + self.position(inputs.position_ids)
        return self.dropout(to_autocast_type(self.norm(x)), inputs.dropout_keys)


class ProjectedEmbeddings(Embeddings):
    """Embeddings narrower than the layers, followed by a linear projection (Lan et al., 2019)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, size=config.embedding_size)
        self.projection = Linear(config.embedding_size, config.hidden_size)

    def forward(self, inputs: FlatInputs) -> Tensor:
        """[T, D]"""
        return self.projection(super().forward(inputs))


class EncoderLayer(nn.Module):
    """Attention and a feed-forward network, each added to its input and then normalized."""

    def __init__(
        self,
        config: ModelConfig,
        attention: nn.Module | None = None,
        feed_forward: nn.Module | None = None,
    ) -> None:
        """`attention` and `feed_forward` replace BERT's modules."""
        super().__init__()
        size, eps = config.hidden_size, config.layer_norm_eps
        heads, dropout = config.num_attention_heads, config.attention_probs_dropout_prob
        self.attention = attention or Attention(size, heads, dropout)
        self.attention_dropout = Dropout(config.attention_output_dropout)
        self.attention_norm = LayerNorm(size, eps=eps)
        self.feed_forward = feed_forward or FeedForward(
            size, config.intermediate_size, config.hidden_act
        )
        self.feed_forward_dropout = Dropout(config.feed_forward_dropout)
        self.feed_forward_norm = LayerNorm(size, eps=eps)

    def forward(
        self, x: Tensor, layout: Layout, dropout_keys: Tensor | None, weights_wanted: bool
    ) -> tuple[Tensor, Tensor | None]:
        """x [T, D] -> ([T, D], attention probabilities if wanted)."""
        attended, weights = self.attention(x, layout, dropout_keys, weights_wanted)
        return self.finished(x, attended, dropout_keys), weights

    def finished(self, x: Tensor, attended: Tensor, dropout_keys: Tensor | None) -> Tensor:
        """The layer's output [T, D], from its input and its attention's output."""
        _, x = add_and_norm(x, attended, self.attention_norm, self.attention_dropout, dropout_keys)
        inner, dropout = self.feed_forward(x), self.feed_forward_dropout
        return add_and_norm(x, inner, self.feed_forward_norm, dropout, dropout_keys)[1]


class PositionedLayer(EncoderLayer):
    """A layer whose attention has positions as an input: rotations or biases of distances."""

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        positions: object,
        layout: Layout | Pairs,
        dropout_keys: Tensor | None,
        weights_wanted: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """x [T, D] -> ([T, D], attention probabilities if wanted)."""
        attended, weights = self.attention(x, positions, layout, dropout_keys, weights_wanted)
        return self.finished(x, attended, dropout_keys), weights


class FeedForward(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, hidden_size: int, intermediate_size: int, activation: str) -> None:
        super().__init__()
        self.input = Linear(hidden_size, intermediate_size)
        self.output = Linear(intermediate_size, hidden_size)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.activation(self.input(x)))


class Pooler(nn.Module):
    """BERT's pooler: a linear layer and tanh over the first token."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.dense = Linear(hidden_size, hidden_size)

    def forward(self, first: Tensor) -> Tensor:
        """[B, D] -> [B, D]"""
        return torch.tanh(self.dense(first))
