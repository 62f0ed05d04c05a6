"""ModernBERT's body: local and global pre-norm layers with rotary positions, without biases.

Dimensions: T tokens of D channels in B sequences; F inner channels.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from trainer.errors import InputError
from trainer.models.attention.self_attention import AttentionCore
from trainer.models.blocks.activations import ACTIVATIONS
from trainer.models.blocks.autocast import to_autocast_type
from trainer.models.blocks.autograd import AutogradContext
from trainer.models.blocks.dropout import Dropout
from trainer.models.blocks.fused_norm import add_and_norm
from trainer.models.blocks.leaves import Leaf, runs_compiled
from trainer.models.blocks.linear import Linear
from trainer.models.blocks.norms import LayerNorm
from trainer.models.blocks.rotary import angles, rotate
from trainer.models.body import Body, Encoded, Trace
from trainer.models.config import ModelConfig
from trainer.models.inputs import FlatInputs
from trainer.models.packing import Layout

LOCAL, GLOBAL = "sliding_attention", "full_attention"
THETAS = {LOCAL: "local_rope_theta", GLOBAL: "global_rope_theta"}
"""Kind of layer -> the entry for its rotary base in older config files."""


class ModernEncoder(Body):
    """Embeddings, layers and a final norm (Warner et al., 2024).

    `pooled` is the state of the first visible token, or the mean of the states of a sequence if
    classifier_pooling is "mean".
    """

    only_ids = False

    def __init__(self, config: ModelConfig, pooler: bool) -> None:
        assert not pooler, "this family has no pooler"
        super().__init__()
        kinds, thetas = layer_kinds(config), rotary_bases(config)
        self.thetas = [thetas[kind] for kind in kinds]
        self.channels = config.hidden_size // config.num_attention_heads
        self.mean_pooling = config.classifier_pooling == "mean"
        self.embeddings = ModernEmbeddings(config)
        self.layers = nn.ModuleList(
            ModernLayer(config, number, _window(config) if kind == LOCAL else None)
            for number, kind in enumerate(kinds)
        )
        self.final_norm = _norm(config)

    def forward(
        self, inputs: FlatInputs, hidden_states_wanted: bool, attentions_wanted: bool
    ) -> Encoded:
        x = self.embeddings(inputs)
        rotation = {
            theta: angles(inputs.position_ids, self.channels, theta) for theta in set(self.thetas)
        }
        trace = Trace(inputs.layout, hidden_states_wanted)
        attentions: list[Tensor] = []
        for layer, theta in zip(self.layers, self.thetas, strict=True):
            x = trace.record(x)
            arguments = (x, rotation[theta], inputs.layout, inputs.dropout_keys, attentions_wanted)
            x, weights = self.run_layer(layer, arguments)
            if weights is not None:
                attentions.append(weights)
        x = trace.record(self.final_norm(x))
        return Encoded(
            tokens=x,
            pooled=self._pooled(x, inputs.layout),
            hidden_states=trace.recorded,
            attentions=tuple(attentions) if attentions_wanted else None,
        )

    def _pooled(self, x: Tensor, layout: Layout) -> Tensor:
        """[T, D] -> [B, D]"""
        if not self.mean_pooling:
            return x.index_select(0, layout.first_tokens)
        return layout.pooled_sum(x) / layout.device_lengths.unsqueeze(1)


class ModernEmbeddings(nn.Module):
    """Normalized token embeddings without positions, which the attention layers encode."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.token = nn.Embedding(config.vocab_size, size, padding_idx=config.pad_token_id)
        self.norm = _norm(config)
        self.dropout = Dropout(config.embedding_dropout)

    def forward(self, inputs: FlatInputs) -> Tensor:
        """[T, D], in the dtype of the active autocast, if any."""
        x = to_autocast_type(self.norm(inputs.embedded(self.token)))
        return self.dropout(x, inputs.dropout_keys)


class ModernLayer(nn.Module):
    """A pre-norm layer of attention and a gated feed-forward network.

    The first layer's attention has no norm, since the embeddings are normalized already.
    """

    def __init__(self, config: ModelConfig, number: int, window: int | None) -> None:
        super().__init__()
        self.attention_norm = nn.Identity() if number == 0 else _norm(config)
        self.attention = RotaryAttention(config, window)
        self.attention_dropout = Dropout(config.attention_dropout)
        self.feed_forward_norm = _norm(config)
        self.feed_forward = GatedFeedForward(config)

    def forward(
        self,
        x: Tensor,
        rotation: tuple[Tensor, Tensor],
        layout: Layout,
        dropout_keys: Tensor | None,
        weights_wanted: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """x [T, D] -> ([T, D], attention probabilities if wanted)."""
        normed = self.attention_norm(x)
        attended, weights = self.attention(normed, rotation, layout, dropout_keys, weights_wanted)
        dropout = self.attention_dropout
        x, normed = add_and_norm(x, attended, self.feed_forward_norm, dropout, dropout_keys)
        return x + self.feed_forward(normed, dropout_keys), weights


class RotaryAttention(AttentionCore):
    """Attention with one projection for queries, keys and values, and rotary positions."""

    def __init__(self, config: ModelConfig, window: int | None) -> None:
        size = config.hidden_size
        super().__init__(size, config.num_attention_heads, config.attention_dropout)
        self.window = window
        self.input = Linear(size, 3 * size, bias=False)
        self.output = Linear(size, size, bias=False)

    def forward(
        self,
        x: Tensor,
        rotation: tuple[Tensor, Tensor],
        layout: Layout,
        dropout_keys: Tensor | None,
        weights_wanted: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """x [T, D], cosines and sines [T, channels / 2] -> ([T, D], probabilities if wanted)."""
        query, key, value = self.input(x).chunk(3, -1)
        query, key = rotate(query, rotation), rotate(key, rotation)
        context, weights = self.attend(
            query, key, value, layout, dropout_keys, weights_wanted, self.window
        )
        return self.output(context), weights


class GatedFeedForward(nn.Module):
    """GeGLU (Shazeer, 2020): the activated first half of a linear output times the second half."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.input = Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.output = Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.is_gelu = config.hidden_act == "gelu"
        self.dropout = Dropout(config.mlp_dropout)

    def forward(self, x: Tensor, dropout_keys: Tensor | None) -> Tensor:
        both = self.input(x)
        if self.is_gelu and runs_compiled(both):
            return self.output(self.dropout(_GeluTimes.apply(both), dropout_keys))
        activated, gate = both.chunk(2, -1)
        return self.output(self.dropout(self.activation(activated) * gate, dropout_keys))


def _gelu_times(both: Tensor) -> Tensor:
    """[T, 2 F] -> [T, F], the activated first half times the second half."""
    activated, gate = both.float().chunk(2, -1)
    return (F.gelu(activated) * gate).to(both.dtype)


def _gelu_times_gradients(grad: Tensor, both: Tensor) -> Tensor:
    activated, gate = both.float().chunk(2, -1)
    wide = grad.float()
    grad_activated = torch.ops.aten.gelu_backward(wide * gate, activated)
    return torch.cat([grad_activated, wide * F.gelu(activated)], -1).to(both.dtype)


GELU_TIMES, GELU_TIMES_GRADIENTS = Leaf(_gelu_times), Leaf(_gelu_times_gradients)


class _GeluTimes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: AutogradContext, both: Tensor) -> Tensor:
        ctx.save_for_backward(both)
        return GELU_TIMES(both)

    @staticmethod
    @once_differentiable
    def backward(ctx: AutogradContext, grad: Tensor) -> Tensor:
        return GELU_TIMES_GRADIENTS(grad, *ctx.saved_tensors)


def layer_kinds(config: ModelConfig) -> list[str]:
    """The kind of each layer, LOCAL or GLOBAL, from layer_types or global_attn_every_n_layers."""
    kinds, count = config.layer_types, config.num_hidden_layers
    if kinds is None:
        every = config.global_attn_every_n_layers
        if not isinstance(every, int) or every < 1:
            raise _refusal("global_attn_every_n_layers", every, "an integer of at least 1")
        return [LOCAL if number % every else GLOBAL for number in range(count)]
    if (
        not isinstance(kinds, list)
        or len(kinds) != count
        or any(kind not in (LOCAL, GLOBAL) for kind in kinds)
    ):
        raise _refusal("layer_types", kinds, f"{LOCAL} or {GLOBAL} for each of the {count} layers")
    return kinds


def rotary_bases(config: ModelConfig) -> dict[str, float]:
    """The rotary base of each kind of layer, from rope_parameters or the older entries."""
    parameters = config.rope_parameters
    if isinstance(parameters, Mapping) and not THETAS.keys() >= parameters.keys():
        raise _refusal("rope_parameters", parameters, f"only the entries {' and '.join(THETAS)}")
    bases = {}
    for kind, entry in THETAS.items():
        given = {} if parameters is None else parameters
        given = given.get(kind) or {} if isinstance(given, Mapping) else None
        if not isinstance(given, Mapping) or given.get("rope_type", "default") != "default":
            accepted = "for each kind of layer, a mapping whose rope_type is default"
            raise _refusal("rope_parameters", parameters, accepted)
        base = given.get("rope_theta", getattr(config, entry))
        if not isinstance(base, (int, float)) or not base > 0:
            raise _refusal("rope_theta", base, "a number above 0")
        bases[kind] = float(base)
    return bases


def _window(config: ModelConfig) -> int:
    if config.local_attention < 0:
        raise _refusal("local_attention", config.local_attention, "0 or more")
    return config.local_attention // 2


def _refusal(entry: str, found: object, accepted: str) -> InputError:
    return InputError(f"config.json: {entry}: found {found!r}; accepted: {accepted}")


def _norm(config: ModelConfig) -> LayerNorm:
    return LayerNorm(config.hidden_size, eps=config.layer_norm_eps, bias=False)
