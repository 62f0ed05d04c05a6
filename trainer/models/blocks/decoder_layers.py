"""Layers of decoders with rotary positions; the classes differ in where they normalize."""

from typing import Any, ClassVar

from torch import Tensor, nn

from trainer.models.blocks.fused_norm import add_and_norm
from trainer.models.blocks.gated_feed_forward import GatedFeedForward
from trainer.models.blocks.layer_place import LayerPlace
from trainer.models.blocks.norms import RMSNorm
from trainer.models.blocks.rotary import Rotation
from trainer.models.blocks.rotary_attention import RotaryAttention
from trainer.models.cache import KeyValueCache
from trainer.models.config import ModelConfig
from trainer.models.packing import Layout

Past = tuple[KeyValueCache, int]
"""The cache of keys and values, and the index of the layer in it."""


class DecoderLayer(nn.Module):
    """A pre-norm layer of attention and a gated feed-forward network.

    Subclasses replace parts by setting class variables.
    """

    norm: ClassVar[type[Any]] = RMSNorm
    """The class of the norms; its arguments are a size and an epsilon"""
    attention_class: ClassVar[type[RotaryAttention]] = RotaryAttention
    feed_forward_class: ClassVar[type[Any]] = GatedFeedForward
    """The class of the feed-forward network; its argument is a config"""

    def __init__(self, config: ModelConfig, place: LayerPlace) -> None:
        super().__init__()
        size, eps = config.hidden_size, config.rms_norm_eps
        self.attention_norm = self.norm(size, eps)
        self.attention = self.attention_class(config, place)
        self.feed_forward_norm = self.norm(size, eps)
        self.feed_forward = self.make_feed_forward(config, place)

    def make_feed_forward(self, config: ModelConfig, place: LayerPlace) -> nn.Module:
        """Build the feed-forward network of the layer at this place."""
        network: nn.Module = self.feed_forward_class(config)
        return network

    def forward(
        self,
        x: Tensor,
        rotation: Rotation | None,
        layout: Layout,
        past: Past | None,
        dropout_keys: Tensor | None,
        weights_wanted: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """x [T, D] -> ([T, D], attention probabilities if wanted)."""
        normed = self.attention_norm(x)
        attended, weights = self.attention(
            normed, rotation, layout, past, dropout_keys, weights_wanted
        )
        return self.finished(x, attended, dropout_keys), weights

    def finished(self, x: Tensor, attended: Tensor, dropout_keys: Tensor | None) -> Tensor:
        """The layer's output [T, D], from its input and its attention's output."""
        x, normed = add_and_norm(x, attended, self.feed_forward_norm)
        return x + self.feed_forward(normed)


class SandwichLayer(DecoderLayer):
    """A layer that normalizes the inputs and outputs of its attention and feed-forward network."""

    def __init__(self, config: ModelConfig, place: LayerPlace) -> None:
        super().__init__(config, place)
        size, eps = config.hidden_size, config.rms_norm_eps
        self.attended_norm = self.norm(size, eps)
        self.fed_forward_norm = self.norm(size, eps)

    def finished(self, x: Tensor, attended: Tensor, dropout_keys: Tensor | None) -> Tensor:
        x, normed = add_and_norm(x, self.attended_norm(attended), self.feed_forward_norm)
        return x + self.fed_forward_norm(self.feed_forward(normed))
