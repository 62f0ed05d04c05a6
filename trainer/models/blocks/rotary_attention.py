"""Grouped attention with rotary positions, as in Llama and later decoders."""

from typing import ClassVar

from torch import Tensor, nn

from trainer.models.attention.grouped_attention import GroupedAttention
from trainer.models.blocks.layer_place import LayerPlace, head_channels
from trainer.models.blocks.linear import Linear, joined_linear
from trainer.models.blocks.norms import RMSNorm
from trainer.models.blocks.rotary import Rotation, rotate
from trainer.models.cache import KeyValueCache
from trainer.models.config import ModelConfig
from trainer.models.packing import Layout


class RotaryAttention(GroupedAttention):
    """Grouped attention with rotary positions and, in some families, normalized heads."""

    norm: ClassVar[type[nn.Module]] = RMSNorm
    """The class of the heads' norms; its arguments are a size and an epsilon"""

    def __init__(self, config: ModelConfig, place: LayerPlace) -> None:
        size, heads = config.hidden_size, config.num_attention_heads
        key_heads, channels = config.num_key_value_heads or heads, head_channels(config)
        super().__init__(heads, key_heads, channels, config.attention_dropout, place.window)
        self.make_projections(config)
        self.output = Linear(heads * channels, size, bias=config.attention_output_bias)
        normed, eps = config.normed_heads, config.rms_norm_eps
        self.query_norm = self.norm(channels, eps) if normed else None
        self.key_norm = self.norm(channels, eps) if normed else None

    def make_projections(self, config: ModelConfig) -> None:
        """Create the layers that `project` applies."""
        size, biases = config.hidden_size, config.attention_bias
        self.query = Linear(size, self.num_heads * self.channels, bias=biases)
        self.key = Linear(size, self.num_key_heads * self.channels, bias=biases)
        self.value = Linear(size, self.num_key_heads * self.channels, bias=biases)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [T, D] -> queries [T, H x C], keys and values [T, K x C]."""
        query, key, value = joined_linear(x, (self.query, self.key, self.value))
        return query, key, value

    def normalize(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Normalize queries [T, H x C] and keys [T, K x C], before they are rotated."""
        if self.query_norm is None or self.key_norm is None:
            return query, key
        query, key = (x.unflatten(1, (-1, self.channels)) for x in (query, key))
        return self.query_norm(query).flatten(1), self.key_norm(key).flatten(1)

    def rotate(self, x: Tensor, rotation: Rotation) -> Tensor:
        """Rotate x [T, heads x C] by cosines and sines [T, R / 2] of the first R <= C channels."""
        return rotate(x, rotation, self.channels)

    def forward(
        self,
        x: Tensor,
        rotation: Rotation | None,
        layout: Layout,
        past: tuple[KeyValueCache, int] | None,
        dropout_keys: Tensor | None,
        weights_wanted: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """x [T, D], the layer's rotation, if any -> ([T, D], probabilities if wanted)."""
        query, key, value = self.project(x)
        query, key = self.normalize(query, key)
        if rotation is not None:
            query, key = self.rotate(query, rotation), self.rotate(key, rotation)
        context, weights = self.attend(
            query, key, value, layout, past, dropout_keys, weights_wanted
        )
        return self.output(context), weights


class NeighbourRotaryAttention(RotaryAttention):
    """Attention that rotates channels 2 c and 2 c + 1 as a pair, as in GLM, Cohere and RoFormer."""

    def rotate(self, x: Tensor, rotation: Rotation) -> Tensor:
        return rotate(x, rotation, self.channels, neighbours=True)
