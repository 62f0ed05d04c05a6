"""The pre-norm rotary decoder that Llama's relatives share, over flat batches."""

from torch import Tensor, nn

from trainer.errors import InputError
from trainer.models.cache import KeyValueCache
from trainer.models.config import ModelConfig
from trainer.models.encoder import Encoded, run_layer, to_autocast_type
from trainer.models.fused_norm import add_and_norm
from trainer.models.gated_feed_forward import GatedFeedForward
from trainer.models.grouped_attention import GroupedAttention
from trainer.models.linear import Linear, joined_linear
from trainer.models.norms import RMSNorm
from trainer.models.packing import FlatInputs, Layout
from trainer.models.rope import read_rope
from trainer.models.rotary import rotate

LOCAL, GLOBAL = "sliding_attention", "full_attention"

Turns = tuple[Tensor, Tensor]


class DecoderBody(nn.Module):
    """Embeddings, layers and a last norm; whoever inherits makes them. `pooled`: the last token."""

    keeps_first_column = False
    pools_last_token = True
    pooler = None
    embeddings: nn.Module
    layers: nn.ModuleList
    final_norm: nn.Module

    def __init__(self) -> None:
        super().__init__()
        self.gradient_checkpointing = False

    def forward(
        self, inputs: FlatInputs, hidden_states_wanted: bool, attentions_wanted: bool
    ) -> Encoded:
        x = self.embeddings(inputs)
        turns, layout, cache = self.turns(inputs), inputs.layout, inputs.cache
        hidden_states, attentions = [x], []
        for number, layer in enumerate(self.layers):
            past = None if cache is None else (cache, number)
            arguments = (x, turns, layout, past, inputs.dropout_keys, attentions_wanted)
            x, weights = run_layer(layer, arguments, self.gradient_checkpointing)
            if hidden_states_wanted:
                hidden_states.append(x)
            attentions.append(weights)
        if cache is not None:
            cache.advance(layout)
        x = hidden_states[-1] = self.final_norm(x)
        return Encoded(
            tokens=x,
            pooled=x.index_select(0, layout.last_tokens),
            hidden_states=tuple(hidden_states) if hidden_states_wanted else None,
            attentions=tuple(attentions) if attentions_wanted else None,
        )

    def turns(self, inputs: FlatInputs) -> Turns | None:
        """Cosines and sines [T, C / 2] of the positions, where they are turned into the heads."""
        return None


class Decoder(DecoderBody):
    """Llama's (Touvron et al., 2023)."""

    def __init__(self, config: ModelConfig, pooler: bool) -> None:
        assert not pooler, "no head of these families has a pooler"
        super().__init__()
        self.rope = read_rope(config)
        self.embeddings = TokenEmbeddings(config)
        self.layers = nn.ModuleList(
            DecoderLayer(config, self.rope.channels, window) for window in layer_windows(config)
        )
        self.final_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def turns(self, inputs: FlatInputs) -> Turns:
        return self.rope.turns(inputs.position_ids, inputs.layout)


class TokenEmbeddings(nn.Module):
    """Token embeddings alone; positions come in with the attention."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size, pad = config.hidden_size, config.pad_token_id
        self.token = nn.Embedding(config.vocab_size, size, padding_idx=pad)

    def forward(self, inputs: FlatInputs) -> Tensor:
        """[T, D], in the type of the running autocast, if any: what follows stays in it."""
        return to_autocast_type(self.token(inputs.input_ids))


class DecoderLayer(nn.Module):
    """Attention and a gated feed-forward network, each over its normalized input, added to it."""

    def __init__(self, config: ModelConfig, channels: int, window: int | None) -> None:
        super().__init__()
        size, eps = config.hidden_size, config.rms_norm_eps
        self.attention_norm = RMSNorm(size, eps)
        self.attention = RotaryAttention(config, channels, window)
        self.feed_forward_norm = RMSNorm(size, eps)
        self.feed_forward = GatedFeedForward(config)

    def forward(
        self,
        x: Tensor,
        turns: Turns,
        layout: Layout,
        past: tuple[KeyValueCache, int] | None,
        keys: Tensor | None,
        weights_wanted: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """x [T, D] -> ([T, D], attention probabilities if wanted)."""
        normed = self.attention_norm(x)
        attended, weights = self.attention(normed, turns, layout, past, keys, weights_wanted)
        x, normed = add_and_norm(x, attended, self.feed_forward_norm)
        return x + self.feed_forward(normed), weights


class RotaryAttention(GroupedAttention):
    """Grouped attention with rotary positions and, where the family has them, normalized heads."""

    def __init__(self, config: ModelConfig, channels: int, window: int | None) -> None:
        size, heads = config.hidden_size, config.num_attention_heads
        key_heads = config.num_key_value_heads or heads
        super().__init__(heads, key_heads, channels, config.attention_dropout, window)
        biases = config.attention_bias
        self.query = Linear(size, heads * channels, bias=biases)
        self.key = Linear(size, key_heads * channels, bias=biases)
        self.value = Linear(size, key_heads * channels, bias=biases)
        self.output = Linear(heads * channels, size, bias=config.attention_output_bias)
        normed, eps = config.normed_heads, config.rms_norm_eps
        self.query_norm = RMSNorm(channels, eps) if normed else None
        self.key_norm = RMSNorm(channels, eps) if normed else None

    def forward(
        self,
        x: Tensor,
        turns: Turns,
        layout: Layout,
        past: tuple[KeyValueCache, int] | None,
        keys: Tensor | None,
        weights_wanted: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """x [T, D], cosines and sines [T, C / 2] -> ([T, D], probabilities if wanted)."""
        query, key, value = joined_linear(x, (self.query, self.key, self.value))
        if self.query_norm is not None and self.key_norm is not None:
            query = self.query_norm(query.unflatten(1, (-1, self.channels))).flatten(1)
            key = self.key_norm(key.unflatten(1, (-1, self.channels))).flatten(1)
        query, key = rotate(query, turns), rotate(key, turns)
        context, weights = self.attend(query, key, value, layout, past, keys, weights_wanted)
        return self.output(context), weights


def layer_windows(config: ModelConfig) -> list[int | None]:
    """How many tokens before it a token sees, for each layer; None: all."""
    count, width = config.num_hidden_layers, config.sliding_window
    kinds = config.layer_types
    if kinds is None:
        first = config.max_window_layers
        kinds = [LOCAL if number >= first else GLOBAL for number in range(count)]
    if not isinstance(kinds, list) or len(kinds) != count or not {LOCAL, GLOBAL} >= set(kinds):
        accepted = f"{LOCAL} or {GLOBAL} for each of the {count} layers"
        raise InputError(f"config.json: layer_types: found {kinds!r}; accepted: {accepted}")
    if not config.use_sliding_window or width is None:
        return [None] * count
    if not isinstance(width, int) or width < 1:
        raise InputError(f"config.json: sliding_window: found {width!r}; accepted: 1 or more, null")
    return [width - 1 if kind == LOCAL else None for kind in kinds]
