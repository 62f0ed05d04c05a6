"""The encoder-decoder of the T5 and BART families, over two flat batches.

Dimensions: Ts source tokens (encoder) and Tt target tokens (decoder), both in B sequences; T is Ts
or Tt; H heads of C channels; D is the hidden size. A grid has L queries and S keys per sequence,
including pads.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from trainer.models.attention.cross_attention import CrossAttention
from trainer.models.attention.pairs import Pairs
from trainer.models.blocks.activations import ACTIVATIONS
from trainer.models.blocks.dropout import Dropout
from trainer.models.blocks.fused_norm import add_and_norm
from trainer.models.blocks.linear import Linear, joined_linear
from trainer.models.blocks.norms import LayerNorm, RMSNorm
from trainer.models.blocks.relative_bias import RelativeBias
from trainer.models.body import Body, Encoded, ReadsOtherTokens, Trace
from trainer.models.cache import SourceCache
from trainer.models.inputs import FlatInputs
from trainer.models.packing import Layout

Norm = LayerNorm | RMSNorm
Past = tuple[SourceCache, int] | None
"""A decoder's cache, and the index of a layer in it."""


@dataclass(frozen=True)
class Stack:
    """The settings of the layers of an encoder or a decoder."""

    num_layers: int
    size: int
    num_heads: int
    channels: int
    inner_size: int
    activation: str
    norm: Callable[[], Norm]
    dropout: float
    attention_dropout: float
    activation_dropout: float
    gated: bool = False
    """Whether the feed-forward network is gated."""
    biases: bool = True
    pre_norm: bool = False
    """Whether sublayers normalize their inputs (pre-norm) instead of residual sums (post-norm)."""
    scale: float | None = None
    """The factor that scales attention scores; None: channels^-1/2."""


class EncoderDecoder(Body):
    """Shared embeddings, encoder layers, and decoder layers that also attend to the encoder.

    `Encoded.tokens` are the decoder's outputs. Families provide the embeddings with positions and
    biases, and the module after the last layer.
    """

    counts_gaps = True
    embeddings: "SharedEmbeddings"

    def __init__(
        self,
        embeddings: "SharedEmbeddings",
        encoder: Stack,
        decoder: Stack,
        final: Callable[[], nn.Module],
    ) -> None:
        """`final` builds the module after the last layer of each stack: (x, dropout keys) -> x."""
        super().__init__()
        self.embeddings = embeddings
        numbers = range(encoder.num_layers), range(decoder.num_layers)
        self.encoder_layers = nn.ModuleList(EncoderLayer(encoder) for _ in numbers[0])
        self.decoder_layers = nn.ModuleList(DecoderLayer(decoder) for _ in numbers[1])
        self.encoder_final, self.decoder_final = final(), final()

    @property
    def units(self) -> list[tuple[str, nn.Module]]:
        names = ("encoder_layers", "decoder_layers")
        sides = zip(names, (self.encoder_layers, self.decoder_layers), strict=True)
        return [(f"{name}.{n}", layer) for name, layers in sides for n, layer in enumerate(layers)]

    def forward(
        self, inputs: FlatInputs, hidden_states_wanted: bool, attentions_wanted: bool
    ) -> Encoded:
        target = inputs.decoder
        if target is None:  # the cache holds the encoder's keys and values
            assert isinstance(inputs.cache, SourceCache) and inputs.cache.seen is not None
            return self._decode(inputs, None, hidden_states_wanted, attentions_wanted)
        encoder = self._encode(inputs, hidden_states_wanted, attentions_wanted)
        if isinstance(target.cache, SourceCache):
            target.cache.seen = _seen(inputs.layout)
        memory = Memory(encoder.tokens, inputs.layout, inputs.dropout_keys)
        found = self._decode(target, memory, hidden_states_wanted, attentions_wanted)
        return replace(found, encoder=encoder)

    def _encode(self, inputs: FlatInputs, states_wanted: bool, weights_wanted: bool) -> Encoded:
        x = self.embeddings(inputs)
        layout, keys = inputs.layout, inputs.dropout_keys
        bias = self.embeddings.encoder_bias_of(layout.longest)
        pairs = Pairs(layout, layout)
        trace, attentions = Trace(layout, states_wanted), []
        for layer in self.encoder_layers:
            x = trace.record(x)
            arguments = (x, pairs, bias, keys, weights_wanted)
            x, weights = self.run_layer(layer, arguments)
            attentions.append(weights)
        x = trace.record(self.encoder_final(x, keys))
        return Encoded(
            tokens=x,
            pooled=x.index_select(0, layout.first_tokens),
            hidden_states=trace.recorded,
            attentions=tuple(map(layout.unpack_attentions, attentions)) if weights_wanted else None,
        )

    def _decode(
        self, inputs: FlatInputs, memory: "Memory | None", states_wanted: bool, weights_wanted: bool
    ) -> Encoded:
        x = self.embeddings.of_decoder(inputs)
        layout, keys, cache = inputs.layout, inputs.dropout_keys, inputs.cache
        assert cache is None or isinstance(cache, SourceCache)
        before = 0 if cache is None else int(cache.lengths.max())
        bias = self.embeddings.decoder_bias_of(before + layout.longest)
        pairs = Pairs(layout, layout, causal=True)
        tokens, cross, source_keys = None, None, None
        if memory is not None:
            tokens, source_keys = memory.tokens, memory.dropout_keys
            cross = Pairs(layout, memory.layout)
        trace, attentions = Trace(layout, states_wanted), []
        for number, layer in enumerate(self.decoder_layers):
            x = trace.record(x)
            past = None if cache is None else (cache, number)
            arguments = (x, tokens, pairs, cross, bias, past, source_keys, keys, weights_wanted)
            x, weights = self.run_layer(layer, arguments)
            attentions.append(weights)
        if cache is not None:
            cache.advance(layout)
        x = trace.record(self.decoder_final(x, keys))
        own, crossed = zip(*attentions, strict=True)
        return Encoded(
            tokens=x,
            pooled=x.index_select(0, layout.last_tokens),
            hidden_states=trace.recorded,
            attentions=tuple(map(layout.unpack_attentions, own)) if weights_wanted else None,
            cross_attentions=crossed if weights_wanted else None,
        )


@dataclass(frozen=True)
class Memory:
    """The encoder's outputs, to which the decoder attends."""

    tokens: Tensor
    """[Ts, D]"""
    layout: Layout
    dropout_keys: Tensor | None


class SharedEmbeddings(nn.Module, ABC):
    """Token embeddings of encoder and decoder; a family adds positions, norms and biases."""

    token: nn.Embedding
    encoder_bias: RelativeBias | None
    decoder_bias: RelativeBias | None

    @abstractmethod
    def forward(self, inputs: FlatInputs) -> Tensor:
        """[Ts, D], the input of the encoder's layers."""

    @abstractmethod
    def of_decoder(self, inputs: FlatInputs) -> Tensor:
        """[Tt, D], the input of the decoder's layers."""

    def encoder_bias_of(self, longest: int) -> Tensor | None:
        """[H, 2 longest - 1], the table of a `DistanceBias`; None if scores have no bias."""
        return None if self.encoder_bias is None else self.encoder_bias(longest)

    def decoder_bias_of(self, longest: int) -> Tensor | None:
        """[H, 2 longest - 1], the table of a `DistanceBias`; None if scores have no bias."""
        return None if self.decoder_bias is None else self.decoder_bias(longest)


class Sublayer(nn.Module):
    """The common parts of attention and feed-forward sublayers: norm, dropout and residual sum."""

    def __init__(self, stack: Stack) -> None:
        super().__init__()
        self.norm = stack.norm()
        self.output_dropout = Dropout(stack.dropout)
        self.pre_norm = stack.pre_norm

    def enter(self, x: Tensor) -> Tensor:
        return self.norm(x) if self.pre_norm else x

    def leave(self, x: Tensor, branch: Tensor, keys: Tensor | None) -> Tensor:
        if self.pre_norm:
            return self.output_dropout.add(x, branch, keys)
        return add_and_norm(x, branch, self.norm, self.output_dropout, keys)[1]


class SelfAttention(Sublayer):
    """Attention within a sequence, optionally with a bias for each distance."""

    def __init__(self, stack: Stack) -> None:
        super().__init__(stack)
        inner, linear = stack.num_heads * stack.channels, partial(Linear, bias=stack.biases)
        self.query, self.key, self.value = (linear(stack.size, inner) for _ in range(3))
        self.output = linear(inner, stack.size)
        self.core = _core(stack)

    def forward(
        self,
        x: Tensor,
        pairs: Pairs,
        bias: Tensor | None,
        past: Past,
        dropout_keys: Tensor | None,
        weights_wanted: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """x [T, D] -> ([T, D], attention probabilities if wanted)."""
        query, key, value = joined_linear(self.enter(x), (self.query, self.key, self.value))
        if past is None:
            context, weights = self.core.attend(
                query, key, value, pairs, dropout_keys, weights_wanted, bias
            )
        else:
            context, weights = (
                _attend_with_cache(self.core, query, key, value, pairs, bias, past),
                None,
            )
        return self.leave(x, self.output(context), dropout_keys), weights


class SourceAttention(Sublayer):
    """Attention from the decoder's tokens to the encoder's."""

    def __init__(self, stack: Stack) -> None:
        super().__init__(stack)
        inner = stack.num_heads * stack.channels
        self.query = Linear(stack.size, inner, bias=stack.biases)
        self.source = SourceProjections(stack)
        self.output = Linear(inner, stack.size, bias=stack.biases)
        self.core = _core(stack)

    def forward(
        self,
        x: Tensor,
        source: Tensor | None,
        layout: Layout,
        pairs: Pairs | None,
        past: Past,
        source_keys: Tensor | None,
        dropout_keys: Tensor | None,
        weights_wanted: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """x [Tt, D], source [Ts, D] -> ([Tt, D], attention probabilities if wanted).

        `layout` is that of x. `source` and `pairs` are None if the cache holds the encoder's keys
        and values.
        """
        query = self.query(self.enter(x))
        if past is not None:
            context, weights = self._cached(query, source, layout, pairs, past), None
        else:
            assert source is not None and pairs is not None
            key, value = self.source(source, source_keys, weights_wanted)
            context, weights = self.core.attend(
                query, key, value, pairs, dropout_keys, weights_wanted
            )
        return self.leave(x, self.output(context), dropout_keys), weights

    def _cached(
        self,
        query: Tensor,
        source: Tensor | None,
        layout: Layout,
        pairs: Pairs | None,
        past: tuple[SourceCache, int],
    ) -> Tensor:
        """query [Tt, H x C] -> [Tt, H x C]; `layout` is that of the queries."""
        cache, layer = past
        if source is not None and pairs is not None:
            shape = (self.core.num_heads, self.core.channels)
            made = (x.unflatten(1, shape) for x in self.source(source, None, False))
            key, value = (pairs.keys.to_grid(x).transpose(1, 2).contiguous() for x in made)
            cache.sources[layer] = key, value
        key, value = cache.sources[layer]
        assert cache.seen is not None
        return _grid_attention(self.core, query, key, value, cache.seen, None, layout)


class SourceProjections(ReadsOtherTokens):
    """Projects the encoder's tokens to keys and values."""

    def __init__(self, stack: Stack) -> None:
        super().__init__()
        inner = stack.num_heads * stack.channels
        self.key = Linear(stack.size, inner, bias=stack.biases)
        self.value = Linear(stack.size, inner, bias=stack.biases)

    def forward(
        self, tokens: Tensor, dropout_keys: Tensor | None, weights_wanted: bool
    ) -> tuple[Tensor, ...]:
        """tokens [Ts, D] -> keys and values [Ts, H x C]."""
        return joined_linear(tokens, (self.key, self.value))


class FeedForward(Sublayer):
    """Two linear layers with an activation between them."""

    def __init__(self, stack: Stack) -> None:
        super().__init__(stack)
        self.activation = ACTIVATIONS[stack.activation]
        self.add_inputs(stack)
        self.inner_dropout = Dropout(stack.activation_dropout)
        self.output = Linear(stack.inner_size, stack.size, bias=stack.biases)

    def add_inputs(self, stack: Stack) -> None:
        self.input = Linear(stack.size, stack.inner_size, bias=stack.biases)

    def inner(self, x: Tensor) -> Tensor:
        """[T, D] -> [T, inner size]"""
        return self.activation(self.input(x))

    def forward(self, x: Tensor, dropout_keys: Tensor | None) -> Tensor:
        """[T, D] -> [T, D]"""
        inner = self.inner_dropout(self.inner(self.enter(x)), dropout_keys)
        return self.leave(x, self.output(inner), dropout_keys)


class GatedFeedForward(FeedForward):
    """An activated gate times a second projection, then an output projection (Shazeer, 2020)."""

    def add_inputs(self, stack: Stack) -> None:
        self.gate = Linear(stack.size, stack.inner_size, bias=stack.biases)
        self.value = Linear(stack.size, stack.inner_size, bias=stack.biases)

    def inner(self, x: Tensor) -> Tensor:
        gate, value = joined_linear(x, (self.gate, self.value))
        return self.activation(gate) * value


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward network."""

    def __init__(self, stack: Stack) -> None:
        super().__init__()
        self.attention = SelfAttention(stack)
        self.feed_forward = _feed_forward(stack)

    def forward(
        self,
        x: Tensor,
        pairs: Pairs,
        bias: Tensor | None,
        dropout_keys: Tensor | None,
        weights_wanted: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """x [Ts, D] -> ([Ts, D], attention probabilities if wanted)."""
        x, weights = self.attention(x, pairs, bias, None, dropout_keys, weights_wanted)
        return self.feed_forward(x, dropout_keys), weights


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the encoder, and a feed-forward network."""

    def __init__(self, stack: Stack) -> None:
        super().__init__()
        self.attention = SelfAttention(stack)
        self.source_attention = SourceAttention(stack)
        self.feed_forward = _feed_forward(stack)

    def forward(
        self,
        x: Tensor,
        source: Tensor | None,
        pairs: Pairs,
        cross: Pairs | None,
        bias: Tensor | None,
        past: Past,
        source_keys: Tensor | None,
        dropout_keys: Tensor | None,
        weights_wanted: bool,
    ) -> tuple[Tensor, tuple[Tensor | None, Tensor | None]]:
        """x [Tt, D], source [Ts, D] -> ([Tt, D], probabilities of both attentions if wanted).

        `source` is a separate argument so that FSDP also waits for its gradient.
        """
        x, own = self.attention(x, pairs, bias, past, dropout_keys, weights_wanted)
        x, crossed = self.source_attention(
            x, source, pairs.queries, cross, past, source_keys, dropout_keys, weights_wanted
        )
        return self.feed_forward(x, dropout_keys), (own, crossed)


def _feed_forward(stack: Stack) -> FeedForward:
    return GatedFeedForward(stack) if stack.gated else FeedForward(stack)


def _core(stack: Stack) -> CrossAttention:
    return CrossAttention(stack.num_heads, stack.channels, stack.attention_dropout, stack.scale)


def _attend_with_cache(
    core: CrossAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pairs: Pairs,
    bias: Tensor | None,
    past: tuple[SourceCache, int],
) -> Tensor:
    """Self-attention from new tokens [T, H x C] to themselves and the cached tokens."""
    cache, layer = past
    layout, shape = pairs.queries, (core.num_heads, core.channels)
    keys, values = cache.append(layer, key.unflatten(1, shape), value.unflatten(1, shape), layout)
    width = keys.shape[2]
    seen = cache.visible(layout, width, None).unsqueeze(1)
    added = None
    if bias is not None:
        rows = layout.to_grid(cache.columns(layout)).unsqueeze(2)  # [B, L, 1]
        distance = torch.arange(width, device=query.device) - rows
        longest = (bias.shape[1] + 1) // 2
        added = bias[:, (distance + longest - 1).clamp(0, 2 * longest - 2)].transpose(0, 1)
    return _grid_attention(core, query, keys, values, seen, added, layout)


def _grid_attention(
    core: CrossAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    seen: Tensor,
    added: Tensor | None,
    layout: Layout,
) -> Tensor:
    """query [T, H x C], key and value [B, H, S, C] -> [T, H x C].

    `seen` and `added` are broadcast to the scores [B, H, L, S]; `layout` is the layout of the
    queries.
    """
    grid = layout.to_grid(query.unflatten(1, (core.num_heads, core.channels)))
    scores = (grid.transpose(1, 2) * core.scale) @ key.to(query.dtype).transpose(-1, -2)
    if added is not None:
        scores = scores + added
    wide = torch.promote_types(scores.dtype, torch.float32)
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1, dtype=wide).to(query.dtype)
    context = (weights @ value.to(query.dtype)).transpose(1, 2)
    return layout.from_grid(context).flatten(1)


def _seen(layout: Layout) -> Tensor:
    """[B, 1, 1, S] bool, True for the visible keys of a grid; pads and masked keys are False."""
    seen = layout.visible_keys
    if seen is not None:
        return seen
    shape = (layout.num_sequences, 1, 1, layout.longest)
    return torch.ones(shape, dtype=torch.bool, device=layout.device)
