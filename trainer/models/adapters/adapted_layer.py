"""AdaptedLayer: a frozen linear layer to which an adapter has added trained parameters."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from trainer.devices.precision import in_float64


class AdaptedLayer(nn.Module):
    """A linear layer with an adapter.

    Layers are converted in place, so that their parameters keep their names.
    """

    weight: Any
    bias: Any
    parts: tuple[str, ...] = ()
    """The names of the adapter's parameters, in the order of `merged`'s arguments."""
    extras: ClassVar[tuple[str, ...]] = ()
    """Other attributes that the conversion of a layer adds."""
    transposed = False
    """Whether the weight is [in, out]."""

    @torch.no_grad()
    def merged(self, weight: Tensor, *parts: Tensor) -> Tensor:
        """The merged weight, in `weight`'s layout and dtype; `parts` are the adapter's tensors."""
        wide = self.adapted(in_float64(weight), *map(in_float64, parts))
        return (wide.T if self.transposed else wide).to(weight)

    def merged_bias(self, bias: Tensor, *parts: Tensor) -> Tensor:
        """The merged bias; it equals `bias` unless the adapter scales the layer's outputs."""
        return bias.detach()

    def adapted(self, weight: Tensor, *parts: Tensor) -> Tensor:
        """[out, in], the adapted weight, computed from a weight in this layer's layout."""
        raise AssertionError("a subclass defines it")


def adapted_layers(model: nn.Module) -> dict[str, AdaptedLayer]:
    """Module name -> layer with an adapter."""
    return {name: m for name, m in model.named_modules() if isinstance(m, AdaptedLayer)}
