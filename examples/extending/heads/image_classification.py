"""Image classification: a small vision transformer (Dosovitskiy et al., arXiv:2010.11929)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.errors import InputError
from trainer.models.configured import ConfiguredModel
from trainer.models.outputs import ModelOutput


@dataclass(frozen=True)
class ImageClassifierConfig:
    """The shape of an ImageClassifier: the entries of its config.json."""

    image_size: int = 8
    """Height and width of an image, in pixels."""
    channels: int = 1
    patch_size: int = 2
    hidden_size: int = 48
    num_layers: int = 3
    num_heads: int = 4
    num_labels: int = 10

    def __post_init__(self) -> None:
        if min(vars(self).values()) < 1:
            raise InputError(f"model.config: found {self}; accepted: whole numbers above 0")
        if self.image_size % self.patch_size or self.hidden_size % self.num_heads:
            found = f"image_size {self.image_size}, patch_size {self.patch_size}, "
            found += f"hidden_size {self.hidden_size}, num_heads {self.num_heads}"
            accepted = "an image_size divisible by patch_size, a hidden_size divisible by num_heads"
            raise InputError(f"model.config: found {found}; accepted: {accepted}")


@dataclass
class ImageClassifierOutput(ModelOutput):
    """The outputs of an ImageClassifier."""

    logits: Tensor | None = None
    """[B, num_labels], before the softmax"""


class ImageClassifier(ConfiguredModel):
    """A transformer over the patches of an image, and a linear classifier on its mean output."""

    task = "image_classification"
    Config = ImageClassifierConfig

    def __init__(self, config: ImageClassifierConfig) -> None:
        super().__init__(config)
        width, patch = config.hidden_size, config.patch_size
        self.patches = nn.Conv2d(config.channels, width, kernel_size=patch, stride=patch)
        number = (config.image_size // patch) ** 2
        self.positions = nn.Parameter(0.02 * torch.randn(number, width))
        self.layers = nn.ModuleList(
            Layer(width, config.num_heads) for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, config.num_labels)

    def forward(self, pixels: Tensor) -> ImageClassifierOutput:
        """pixels [B, channels, image_size, image_size], for B images."""
        x = self.patches(pixels).flatten(2).transpose(1, 2) + self.positions
        for layer in self.layers:
            x = layer(x)
        return ImageClassifierOutput(logits=self.classifier(self.norm(x).mean(1)))


class Layer(nn.Module):
    """A pre-norm layer: attention, then a feed-forward network."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """x [B, P, width] -> [B, P, width], for P patches."""
        projected = self.query_key_value(self.attention_norm(x)).unflatten(2, (self.num_heads, -1))
        query, key, value = projected.transpose(1, 2).chunk(3, dim=-1)
        attended = F.scaled_dot_product_attention(query, key, value)
        x = x + self.output(attended.transpose(1, 2).flatten(2))
        return x + self.feed_forward(self.norm(x))


HEAD = ImageClassifier
