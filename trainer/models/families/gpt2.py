"""GPT-2 (Radford et al., 2019): learned positions, and one projection for query, key and value.

Dimensions: T tokens, D channels.
"""

import math

import torch
from torch import Tensor, nn

from trainer.models.attention.grouped_attention import GroupedAttention
from trainer.models.blocks.activations import ACTIVATIONS
from trainer.models.blocks.autocast import to_autocast_type
from trainer.models.blocks.decoder import DecoderBody
from trainer.models.blocks.dropout import Dropout
from trainer.models.blocks.fused_norm import add_and_norm
from trainer.models.blocks.linear import linear, narrow_type
from trainer.models.blocks.norms import LayerNorm
from trainer.models.cache import KeyValueCache
from trainer.models.config import ModelConfig
from trainer.models.family import Family, FamilyHead
from trainer.models.formats.decoder_format import sequence_head
from trainer.models.inputs import FlatInputs
from trainer.models.packing import Layout


class GPT2(DecoderBody):
    """Embeddings, pre-norm layers and a final norm."""

    types_are_tokens = True

    def __init__(self, config: ModelConfig, pooler: bool) -> None:
        assert not pooler, "this family has no pooler"
        super().__init__()
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.final_norm = _norm(config)


class Embeddings(nn.Module):
    """The sum of token and position embeddings."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.token = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.dropout = Dropout(config.embd_pdrop)

    def forward(self, inputs: FlatInputs) -> Tensor:
        """[T, D], in the dtype of the active autocast, if any."""
        x = inputs.embedded(self.token) + self.position(inputs.position_ids)
        if inputs.token_type_ids is not None:
            x = x + self.token(inputs.token_type_ids)
        return self.dropout(to_autocast_type(x), inputs.dropout_keys)


class Layer(nn.Module):
    """A pre-norm layer: attention and a feed-forward network, each with a residual connection."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size, inner = config.hidden_size, config.n_inner or 4 * config.hidden_size
        self.attention_norm = _norm(config)
        self.attention = Attention(config)
        self.feed_forward_norm = _norm(config)
        self.input = InputsFirstLinear(size, inner)
        self.output = InputsFirstLinear(inner, size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.attention_dropout = Dropout(config.resid_pdrop)
        self.dropout = Dropout(config.resid_pdrop)

    def forward(
        self,
        x: Tensor,
        rotation: None,
        layout: Layout,
        past: tuple[KeyValueCache, int] | None,
        dropout_keys: Tensor | None,
        weights_wanted: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """x [T, D] -> ([T, D], attention probabilities if wanted)."""
        normed = self.attention_norm(x)
        attended, weights = self.attention(normed, layout, past, dropout_keys, weights_wanted)
        dropout = self.attention_dropout
        x, normed = add_and_norm(x, attended, self.feed_forward_norm, dropout, dropout_keys)
        inner = self.activation(self.input(normed))
        return self.dropout.add(x, self.output(inner), dropout_keys), weights


class Attention(GroupedAttention):
    """Attention with one projection for queries, keys and values."""

    def __init__(self, config: ModelConfig) -> None:
        size, heads = config.hidden_size, config.num_attention_heads
        super().__init__(heads, heads, size // heads, config.attn_pdrop, window=None)
        self.input = InputsFirstLinear(size, 3 * size)
        self.output = InputsFirstLinear(size, size)

    def forward(
        self,
        x: Tensor,
        layout: Layout,
        past: tuple[KeyValueCache, int] | None,
        dropout_keys: Tensor | None,
        weights_wanted: bool,
    ) -> tuple[Tensor, Tensor | None]:
        query, key, value = self.input(x).chunk(3, -1)
        context, weights = self.attend(
            query, key, value, layout, past, dropout_keys, weights_wanted
        )
        return self.output(context), weights


class InputsFirstLinear(nn.Module):
    """A linear layer with the weight layout of GPT-2's files: [inputs, outputs]."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(in_features, out_features))
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, x: Tensor) -> Tensor:
        if narrow_type(x, self.weight) is not None:
            return linear(x, self.weight.T, self.bias)
        return torch.addmm(self.bias, x, self.weight)


def _norm(config: ModelConfig) -> LayerNorm:
    return LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)


def _draw(config: ModelConfig, name: str, weight: Tensor) -> None:
    """Draw normal initial values, with a smaller std for layers that add to the residual stream."""
    is_output = name.endswith("output.weight")
    divisor = math.sqrt(2 * config.num_hidden_layers) if is_output else 1.0
    weight.normal_(0.0, config.initializer_range / divisor)


FAMILY = Family(
    model_type="gpt2",
    name="GPT2",
    prefix="transformer",
    defaults={
        "vocab_size": 50257,
        "n_positions": 1024,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "n_inner": None,
        "activation_function": "gelu_new",
        "resid_pdrop": 0.1,
        "embd_pdrop": 0.1,
        "attn_pdrop": 0.1,
        "layer_norm_epsilon": 1e-5,
        "initializer_range": 0.02,
        "use_cache": True,
        "bos_token_id": 50256,
        "eos_token_id": 50256,
        "pad_token_id": None,
        "tie_word_embeddings": True,
    },
    synonyms={
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
        "intermediate_size": "n_inner",
        "hidden_act": "activation_function",
    },
    constants={"type_vocab_size": 0},
    optional={"classifier_dropout": None, "hidden_dropout": None},
    required={
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    },
    body=GPT2,
    keys={
        "embeddings.token": "wte",
        "embeddings.position": "wpe",
        "layers.*.attention_norm": "h.*.ln_1",
        "layers.*.attention.input": "h.*.attn.c_attn",
        "layers.*.attention.output": "h.*.attn.c_proj",
        "layers.*.feed_forward_norm": "h.*.ln_2",
        "layers.*.input": "h.*.mlp.c_fc",
        "layers.*.output": "h.*.mlp.c_proj",
        "final_norm": "ln_f",
    },
    kind="decoder",
    own_heads={
        "causal_lm": FamilyHead(class_suffix="LMHeadModel"),
        "sequence_classification": FamilyHead(build=sequence_head, keys={"classifier": "score"}),
    },
    draw=_draw,
    known_extras=("h.*.attn.bias", "h.*.attn.masked_bias"),
)
