"""ALBERT (Lan et al., 2019): layers with shared weights, and narrow embeddings."""

from collections.abc import Iterable, Iterator

from torch import Tensor, nn

from trainer.errors import InputError
from trainer.models.blocks.dropout_hash import pass_keys
from trainer.models.blocks.encoder import Encoder, EncoderLayer, ProjectedEmbeddings
from trainer.models.config import ModelConfig
from trainer.models.family import Family, FamilyHead
from trainer.models.heads.layers import MaskedLMHead


class AlbertEncoder(Encoder):
    """Groups of layers that share weights: a group is applied several times in a forward pass.

    `units` contains each layer once, so sharding, layer-wise learning rates, freezing and adapters
    do not depend on the number of passes.
    """

    def __init__(self, config: ModelConfig, pooler: bool) -> None:
        super().__init__(config, pooler)
        passes, groups = config.num_hidden_layers, config.num_hidden_groups
        if groups > passes:
            found = f"found {groups} groups for {passes} layers"
            raise InputError(f"config.json: num_hidden_groups: {found}; accepted: at most {passes}")
        self.groups = [int(number / (passes / groups)) for number in range(passes)]

    def make_embeddings(self, config: ModelConfig) -> nn.Module:
        return ProjectedEmbeddings(config)

    def make_layers(self, config: ModelConfig) -> Iterable[nn.Module]:
        sizes = range(config.num_hidden_groups), range(config.inner_group_num)
        return (nn.ModuleList(EncoderLayer(config) for _ in sizes[1]) for _ in sizes[0])

    @property
    def units(self) -> list[tuple[str, nn.Module]]:
        return [
            (f"layers.{group}.{number}", layer)
            for group, layers in enumerate(self._groups)
            for number, layer in enumerate(layers)
        ]

    def passes(self, dropout_keys: Tensor | None) -> Iterator[tuple[nn.Module, Tensor | None]]:
        groups = self._groups
        layers = [layer for group in self.groups for layer in groups[group]]
        for number, layer in enumerate(layers):
            yield layer, None if dropout_keys is None else pass_keys(dropout_keys, number)

    @property
    def _groups(self) -> list[nn.ModuleList]:
        return [group for group in self.layers if isinstance(group, nn.ModuleList)]


def _masked_lm_head(config: ModelConfig) -> nn.Module:
    return MaskedLMHead(
        config.hidden_size,
        config.vocab_size,
        activation=config.hidden_act,
        layer_norm_eps=config.layer_norm_eps,
        embedding_size=config.embedding_size,
        own_weight=not config.tie_word_embeddings,
    )


_LAYER = "encoder.albert_layer_groups.*.albert_layers.*"

FAMILY = Family(
    model_type="albert",
    name="Albert",
    prefix="albert",
    defaults={
        "vocab_size": 30000,
        "embedding_size": 128,
        "hidden_size": 4096,
        "num_hidden_layers": 12,
        "num_hidden_groups": 1,
        "num_attention_heads": 64,
        "intermediate_size": 16384,
        "inner_group_num": 1,
        "hidden_act": "gelu_new",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-12,
        "classifier_dropout_prob": 0.1,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "tie_word_embeddings": True,
    },
    synonyms={
        "attention_output_dropout": "hidden_dropout_prob",
        "classifier_dropout": "classifier_dropout_prob",
    },
    constants={"feed_forward_dropout": 0.0},
    required={"position_embedding_type": "absolute"},
    no_effect=frozenset(
        {"down_scale_factor", "gap_size", "net_structure_type", "num_memory_blocks"}
        | {"layers_to_keep"}
    ),
    body=AlbertEncoder,
    keys={
        "embeddings.token": "embeddings.word_embeddings",
        "embeddings.position": "embeddings.position_embeddings",
        "embeddings.token_type": "embeddings.token_type_embeddings",
        "embeddings.norm": "embeddings.LayerNorm",
        "embeddings.projection": "encoder.embedding_hidden_mapping_in",
        "layers.*.*.attention.query": f"{_LAYER}.attention.query",
        "layers.*.*.attention.key": f"{_LAYER}.attention.key",
        "layers.*.*.attention.value": f"{_LAYER}.attention.value",
        "layers.*.*.attention.output": f"{_LAYER}.attention.dense",
        "layers.*.*.attention_norm": f"{_LAYER}.attention.LayerNorm",
        "layers.*.*.feed_forward.input": f"{_LAYER}.ffn",
        "layers.*.*.feed_forward.output": f"{_LAYER}.ffn_output",
        "layers.*.*.feed_forward_norm": f"{_LAYER}.full_layer_layer_norm",
        "pooler.dense": "pooler",
    },
    own_heads={
        "base": FamilyHead(pooler=True),
        "masked_lm": FamilyHead(
            build=_masked_lm_head,
            keys={
                "": "predictions",
                "dense": "predictions.dense",
                "norm": "predictions.LayerNorm",
                "decoder": "predictions.decoder",
            },
            tied={
                "predictions.decoder.weight": "embeddings.word_embeddings.weight",
                "predictions.decoder.bias": "predictions.bias",
            },
        ),
        "multiple_choice": FamilyHead(pooler=True),
        "sequence_classification": FamilyHead(pooler=True),
    },
    known_extras=("embeddings.position_ids", "pooler.*", "sop_classifier.*"),
)
