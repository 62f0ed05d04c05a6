"""DeBERTa v2 and v3 (He et al., 2021): disentangled attention to contents and positions."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from trainer.errors import InputError
from trainer.models.attention.biased_attention import BiasedAttention
from trainer.models.attention.disentangled_bias import DisentangledBias, Distances
from trainer.models.attention.pairs import Pairs
from trainer.models.blocks.activations import ACTIVATIONS
from trainer.models.blocks.convolution import TokenConvolution
from trainer.models.blocks.dropout import Dropout
from trainer.models.blocks.dropout_hash import row_keys
from trainer.models.blocks.encoder import Embeddings, Encoder, PositionedLayer
from trainer.models.blocks.linear import Linear, of_rows
from trainer.models.blocks.norms import LayerNorm
from trainer.models.config import ModelConfig
from trainer.models.family import Family, FamilyHead
from trainer.models.formats import bert_format
from trainer.models.heads.layers import DenseClassificationHead, MaskedLMHead, TokenHead
from trainer.models.inputs import FlatInputs

KINDS = ("c2p", "p2c")
"""Content-to-position scores and position-to-content scores."""

NOT_NULL = ("position_buckets", "norm_rel_ebd", "conv_kernel_size")
"""Optional entries that a file may leave out, but not set to null, as in transformers."""

Positions = tuple[Tensor | None, Tensor | None]
"""The table with a row for each relative position, and the dropout keys of its rows"""


class DebertaEmbeddings(Embeddings):
    """Token embeddings, optionally absolute positions, and the table of relative positions."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, positions=config.position_biased_input)
        rows, size = 2 * distances(config).span, config.hidden_size
        self.relative = nn.Embedding(rows, size) if config.relative_attention else None
        normed = "layer_norm" in _words(config.norm_rel_ebd)
        self.relative_norm = LayerNorm(size, eps=config.layer_norm_eps) if normed else None

    def table(self) -> Tensor | None:
        """[R, D], the table of R relative positions, if any."""
        if self.relative is None or self.relative_norm is None:
            return None if self.relative is None else self.relative.weight
        normed: Tensor = self.relative_norm(self.relative.weight)
        return normed


class DisentangledAttention(BiasedAttention):
    """Attention whose scores are the sum of up to three products of contents and positions."""

    def __init__(self, config: ModelConfig) -> None:
        size, heads, kinds = config.hidden_size, config.num_attention_heads, position_kinds(config)
        scale = (size // heads * (1 + len(kinds))) ** -0.5
        super().__init__(size, heads, config.attention_probs_dropout_prob, scale)
        self.distances = distances(config)
        self.kinds = kinds if config.relative_attention else ()
        self.position_dropout = Dropout(config.hidden_dropout_prob)
        own = () if config.share_att_key else self.kinds
        self.position_key = Linear(size, size) if "c2p" in own else None
        self.position_query = Linear(size, size) if "p2c" in own else None

    def forward(
        self,
        x: Tensor,
        positions: Positions,
        pairs: Pairs,
        dropout_keys: Tensor | None,
        weights_wanted: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """x [T, D] -> ([T, D], probabilities [B, H, L, L] if wanted)."""
        bias = self._bias(*positions, pairs.longest) if self.kinds else None
        return self.attend(x, bias, pairs, dropout_keys, weights_wanted)

    def _bias(self, table: Tensor | None, keys: Tensor | None, longest: int) -> DisentangledBias:
        """The bias for texts of this length; a compiled model uses all rows of the table."""
        assert table is not None
        table = self.position_dropout(table, keys)
        first, rows = 0, len(table)
        if not torch.compiler.is_compiling():
            reach = self.distances.reach(longest)
            first = self.distances.span - reach
            rows = min(2 * reach + 1, rows - first)
        table = table[first : first + rows]
        keys = None if keys is None else keys[first : first + rows]
        tables: dict[str, Tensor | None] = dict.fromkeys(KINDS)
        layers = {"c2p": self.position_key or self.key, "p2c": self.position_query or self.query}
        for kind in self.kinds:
            of_table = of_rows(layers[kind], table, keys)
            tables[kind] = of_table.unflatten(1, (self.num_heads, -1)).transpose(0, 1)
        queries = tables["p2c"]
        return DisentangledBias(
            position_keys=tables["c2p"],
            position_queries=None if queries is None else queries * self.scale,
            distances=self.distances,
            first_row=first,
        )


class ConvolvedLayer(PositionedLayer):
    """A layer that adds a convolution of its input: the first layer of the largest models."""

    def __init__(self, config: ModelConfig, attention: nn.Module) -> None:
        super().__init__(config, attention)
        width, groups = config.conv_kernel_size, config.conv_groups
        self.convolution = TokenConvolution(config.hidden_size, width, groups)
        self.convolution_dropout = Dropout(config.hidden_dropout_prob)
        self.convolution_norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.activation = ACTIVATIONS[config.conv_act]

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        positions: Positions,
        pairs: Pairs,
        dropout_keys: Tensor | None,
        weights_wanted: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """x [T, D] -> ([T, D], attention probabilities if wanted)."""
        found, weights = super().forward(x, positions, pairs, dropout_keys, weights_wanted)
        around = self.convolution_dropout(self.convolution(x, pairs.keys), dropout_keys)
        return self.convolution_norm(found + self.activation(around)), weights


class DebertaEncoder(Encoder):
    """An encoder whose layers share a table of relative positions, which each layer projects."""

    keeps_first_column = False
    counts_gaps = True
    embeddings: DebertaEmbeddings

    def __init__(self, config: ModelConfig, pooler: bool) -> None:
        _check(config)
        super().__init__(config, pooler)

    def make_embeddings(self, config: ModelConfig) -> nn.Module:
        return DebertaEmbeddings(config)

    def make_layers(self, config: ModelConfig) -> Iterable[nn.Module]:
        for number in range(config.num_hidden_layers):
            convolved = number == 0 and config.conv_kernel_size > 0
            kind = ConvolvedLayer if convolved else PositionedLayer
            yield kind(config, DisentangledAttention(config))

    def shared_arguments(self, inputs: FlatInputs) -> tuple[Any, ...]:
        table, keys = self.embeddings.table(), None
        if inputs.dropout_keys is not None and table is not None:
            key = inputs.step_key
            key = torch.zeros(1, dtype=torch.int32) if key is None else key
            keys = row_keys(key.to(table.device, non_blocking=True), len(table))
        return (table, keys), Pairs(inputs.layout, inputs.layout)


def distances(config: ModelConfig) -> Distances:
    """The mapping from distances to rows of the table."""
    longest = config.max_relative_positions
    longest = config.max_position_embeddings if longest < 1 else longest
    buckets = config.position_buckets
    return Distances(buckets if buckets > 0 else None, longest)


def position_kinds(config: ModelConfig) -> tuple[str, ...]:
    """The kinds of position scores, read from a list or from a string with | between them."""
    given = config.pos_att_type
    given = given.lower().split("|") if isinstance(given, str) else given
    return tuple(kind for kind in KINDS if kind in [str(each).strip() for each in given or ()])


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.lower().split("|")]


def _check(config: ModelConfig) -> None:
    """Raise InputError for unsupported entries and for contradictory numbers."""
    size, heads = config.hidden_size, config.num_attention_heads
    sizes = {
        "embedding_size": (config.embedding_size, size),
        "attention_head_size": (config.attention_head_size, size // heads),
        "pooler_hidden_size": (config.pooler_hidden_size, size),
    }
    for name, (found, accepted) in sizes.items():
        if found not in (None, accepted):
            raise InputError(f"config.json: {name}: found {found!r}; accepted: {accepted}")
    for name in NOT_NULL:
        if getattr(config, name) is None:
            accepted = repr(config.family.optional[name])
            raise InputError(f"config.json: {name}: found None; accepted: {accepted}, if unset")
    kinds = config.pos_att_type
    listed = kinds is None or isinstance(kinds, (str, list, tuple))
    if not listed or (config.relative_attention and not position_kinds(config)):
        found = (
            f"found {kinds!r:.60} with relative_attention {str(config.relative_attention).lower()}"
        )
        raise InputError(f"config.json: pos_att_type: {found}; accepted: {', '.join(KINDS)}")
    buckets, longest = config.position_buckets, distances(config).longest
    if (
        config.relative_attention
        and buckets > 0
        and not (buckets >= 4 and longest - 1 > buckets // 2)
    ):
        raise InputError(
            f"config.json: position_buckets: found {buckets} for distances up to {longest}; "
            "accepted: 4 or more, and fewer than twice the distances"
        )
    width, groups = config.conv_kernel_size, config.conv_groups
    if width < 0 or (width > 0 and width % 2 == 0):
        raise InputError(f"config.json: conv_kernel_size: found {width}; accepted: 0, or odd")
    if width > 0 and (groups is None or groups < 1 or size % groups):
        accepted = f"a divisor of the hidden size {size}"
        raise InputError(f"config.json: conv_groups: found {groups}; accepted: {accepted}")


def _pooled_head(config: ModelConfig, num_labels: int | None = None) -> nn.Module:
    dropout = config.cls_dropout
    return DenseClassificationHead(
        config.hidden_size,
        num_labels or config.num_labels,
        activation=config.pooler_hidden_act,
        dropout_before=config.pooler_dropout,
        dropout=config.hidden_dropout_prob if dropout is None else dropout,
    )


def _choice_head(config: ModelConfig) -> nn.Module:
    return _pooled_head(config, num_labels=1)


def _token_head(config: ModelConfig) -> nn.Module:
    return TokenHead(config.hidden_size, config.num_labels, dropout=config.hidden_dropout_prob)


def _masked_lm_head(config: ModelConfig) -> nn.Module:
    if not config.legacy:
        raise InputError(
            "config.json: legacy: found False; accepted: True for masked language modeling "
            "(the head whose tensors are called cls.predictions)"
        )
    return MaskedLMHead(
        config.hidden_size,
        config.vocab_size,
        activation=config.hidden_act,
        layer_norm_eps=config.layer_norm_eps,
        own_weight=not config.tie_word_embeddings,
    )


_LAYER = "encoder.layer.*.attention"
_POOLED_KEYS = {"dense": "pooler.dense", "classifier": "classifier"}

FAMILY = Family(
    model_type="deberta-v2",
    name="DebertaV2",
    prefix="deberta",
    defaults={
        "vocab_size": 128100,
        "hidden_size": 1536,
        "num_hidden_layers": 24,
        "num_attention_heads": 24,
        "intermediate_size": 6144,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "max_position_embeddings": 512,
        "type_vocab_size": 0,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-7,
        "relative_attention": False,
        "max_relative_positions": -1,
        "pad_token_id": 0,
        "position_biased_input": True,
        "pos_att_type": None,
        "pooler_dropout": 0.0,
        "pooler_hidden_act": "gelu",
        "legacy": True,
        "tie_word_embeddings": True,
    },
    optional={
        "position_buckets": -1,
        "norm_rel_ebd": "none",
        "share_att_key": False,
        "conv_kernel_size": 0,
        "conv_groups": 1,
        "conv_act": "tanh",
        "cls_dropout": None,
        "embedding_size": None,
        "attention_head_size": None,
        "pooler_hidden_size": None,
    },
    synonyms=bert_format.SYNONYMS,
    choices={
        "pooler_hidden_act": tuple(ACTIVATIONS),
        "conv_act": tuple(ACTIVATIONS),
    },
    body=DebertaEncoder,
    keys={
        **bert_format.KEYS,
        "embeddings.relative": "encoder.rel_embeddings",
        "embeddings.relative_norm": "encoder.LayerNorm",
        "layers.*.attention.query": f"{_LAYER}.self.query_proj",
        "layers.*.attention.key": f"{_LAYER}.self.key_proj",
        "layers.*.attention.value": f"{_LAYER}.self.value_proj",
        "layers.*.attention.position_key": f"{_LAYER}.self.pos_key_proj",
        "layers.*.attention.position_query": f"{_LAYER}.self.pos_query_proj",
        "layers.*.convolution.conv": "encoder.conv.conv",
        "layers.*.convolution_norm": "encoder.conv.LayerNorm",
    },
    own_heads={
        "masked_lm": FamilyHead(
            build=_masked_lm_head,
            keys=bert_format.MASKED_LM_KEYS,
            tied=bert_format.MASKED_LM_TIED,
        ),
        "multiple_choice": FamilyHead(build=_choice_head, keys=_POOLED_KEYS),
        "sequence_classification": FamilyHead(build=_pooled_head, keys=_POOLED_KEYS),
        "token_classification": FamilyHead(build=_token_head),
    },
    absolute_positions="position_biased_input",
    known_extras=(
        *("embeddings.position_ids", "embeddings.position_embeddings.weight"),
        *("lm_predictions.*", "mask_predictions.*"),
    ),
)
