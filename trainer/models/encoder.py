"""The post-norm bidirectional encoder that BERT's relatives share, over flat batches."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainer.models.attention import Attention
from trainer.models.config import ModelConfig
from trainer.models.dropout import Dropout
from trainer.models.fused_norm import add_and_norm
from trainer.models.linear import Linear
from trainer.models.norms import LayerNorm
from trainer.models.packing import FlatInputs, Layout

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}
"""The activations of config.json, by the hub's names."""


@dataclass
class Encoded:
    """What the encoder makes of a flat batch of T tokens in B sequences."""

    tokens: Tensor
    """[T, D]"""
    pooled: Tensor
    """[B, D], the pooler's output, or the first token of each sequence where there is none"""
    hidden_states: tuple[Tensor, ...] | None
    """layers + 1 tensors [T, D]"""
    attentions: tuple[Tensor, ...] | None
    """layers tensors [B, heads, L, L]"""


class Encoder(nn.Module):
    """Embeddings, layers and, for families that have one, a pooler (Devlin et al., 2018)."""

    keeps_first_column = True
    """Whether a masked first column is pooled all the same, as transformers does."""
    pools_last_token = False
    """Whether a sequence is read off its last token."""

    def __init__(self, config: ModelConfig, pooler: bool) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_hidden_layers))
        self.pooler = Pooler(config.hidden_size) if pooler else None
        self.gradient_checkpointing = False

    def forward(
        self, inputs: FlatInputs, hidden_states_wanted: bool, attentions_wanted: bool
    ) -> Encoded:
        x = self.embeddings(inputs)
        hidden_states, attentions = [x], []
        for layer in self.layers:
            arguments = (x, inputs.layout, inputs.dropout_keys, attentions_wanted)
            x, weights = run_layer(layer, arguments, self.gradient_checkpointing)
            hidden_states.append(x)
            attentions.append(weights)
        first = x.index_select(0, inputs.layout.first_tokens)
        return Encoded(
            tokens=x,
            pooled=first if self.pooler is None else self.pooler(first),
            hidden_states=tuple(hidden_states) if hidden_states_wanted else None,
            attentions=tuple(attentions) if attentions_wanted else None,
        )


def run_layer(layer: nn.Module, arguments: tuple[Any, ...], recompute: bool) -> Any:
    """layer(x, ..., dropout keys, weights wanted); with `recompute` once more in the backward pass.

    Its activations then need not be kept.
    """
    if not (recompute and layer.training and torch.is_grad_enabled()):
        return layer(*arguments)
    # Masks made of keys come out the same again; only a generator's would need its state.
    keep_state = arguments[-2] is None
    return checkpoint(layer, *arguments, use_reentrant=False, preserve_rng_state=keep_state)


def to_autocast_type(x: Tensor) -> Tensor:
    """x in the type of the running autocast, if any: what follows stays in it."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x


class Embeddings(nn.Module):
    """The sum of token, position and, where the family has them, token type embeddings."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.token = nn.Embedding(config.vocab_size, size, padding_idx=config.pad_token_id)
        pad_position = config.pad_token_id if config.family.positions_after_pad else None
        positions = config.max_position_embeddings
        self.position = nn.Embedding(positions, size, padding_idx=pad_position)
        types = config.type_vocab_size
        self.token_type = nn.Embedding(types, size) if types else None
        self.norm = LayerNorm(size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, inputs: FlatInputs) -> Tensor:
        """[T, D], in the type of the running autocast, if any: what follows stays in it."""
        x = self.token(inputs.input_ids)
        if self.token_type is not None:
            types = inputs.token_type_ids
            x = x + (self.token_type.weight[0] if types is None else self.token_type(types))
        x = to_autocast_type(self.norm(x + self.position(inputs.position_ids)))
        return self.dropout(x, inputs.dropout_keys)


class EncoderLayer(nn.Module):
    """Attention and a feed-forward network, each added to its input and then normalized."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size, eps = config.hidden_size, config.layer_norm_eps
        heads, dropout = config.num_attention_heads, config.attention_probs_dropout_prob
        self.attention = Attention(size, heads, dropout)
        self.attention_dropout = Dropout(config.attention_output_dropout)
        self.attention_norm = LayerNorm(size, eps=eps)
        self.feed_forward = FeedForward(size, config.intermediate_size, config.hidden_act)
        self.feed_forward_dropout = Dropout(config.hidden_dropout_prob)
        self.feed_forward_norm = LayerNorm(size, eps=eps)

    def forward(
        self, x: Tensor, layout: Layout, keys: Tensor | None, weights_wanted: bool
    ) -> tuple[Tensor, Tensor | None]:
        """x [T, D] -> ([T, D], attention probabilities if wanted)."""
        attended, weights = self.attention(x, layout, keys, weights_wanted)
        _, x = add_and_norm(x, attended, self.attention_norm, self.attention_dropout, keys)
        inner, dropout = self.feed_forward(x), self.feed_forward_dropout
        return add_and_norm(x, inner, self.feed_forward_norm, dropout, keys)[1], weights


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
    """BERT's: a linear layer and tanh over the first token."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.dense = Linear(hidden_size, hidden_size)

    def forward(self, first: Tensor) -> Tensor:
        """[B, D] -> [B, D]"""
        return torch.tanh(self.dense(first))
