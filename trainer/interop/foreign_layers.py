"""Finds the embeddings and the layers of a transformers model by their classes."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.interop.foreign_types import ForeignModule

OWN_CODE = "transformers.models."
MIN_SHARE = 0.5
"""A list of modules counts as the layers of a model only if it contains at least this share of the
parameters outside the embeddings."""


@dataclass(frozen=True)
class ForeignLayers:
    """A model's embeddings and layers, with the attributes that `Layered` requires."""

    embed: nn.Module
    """The module with the token embeddings."""
    units: list[tuple[str, nn.Module]]
    """The names and layers in the order of execution; empty if the layers are unknown."""
    keys_depend_on_length: bool = False
    """See `Body.keys_depend_on_length`."""


def layers_in(inner: ForeignModule) -> ForeignLayers:
    """Find the embeddings and layers of a transformers model.

    The layers are the outermost modules that transformers can recompute in the backward pass. If
    there are none, they are the modules in the model's only ModuleList, if that list contains most
    of the parameters.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    units = list(_outermost(inner, GradientCheckpointingLayer))
    rope = getattr(inner.config, "rope_parameters", None) or {}
    changes = rope.get("rope_type") in ("dynamic", "longrope")
    return ForeignLayers(inner.get_input_embeddings(), units or _only_list(inner), changes)


def _only_list(inner: ForeignModule) -> list[tuple[str, nn.Module]]:
    lists = list(_outermost(inner, nn.ModuleList))
    if len(lists) != 1:
        return []
    prefix, layers = lists[0]
    embeddings = _size(inner.get_input_embeddings())
    if _size(layers) < MIN_SHARE * (_size(inner) - embeddings):
        return []
    return [(f"{prefix}.{name}", layer) for name, layer in layers.named_children()]


def _outermost(
    module: nn.Module, kind: type[nn.Module], prefix: str = ""
) -> Iterator[tuple[str, nn.Module]]:
    """Yield the names and modules of a class, except modules nested in others of that class."""
    for name, child in module.named_children():
        if isinstance(child, kind):
            yield f"{prefix}{name}", child
        else:
            yield from _outermost(child, kind, f"{prefix}{name}.")


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@torch.no_grad()
def make_linears_plain(inner: nn.Module) -> None:
    """Convert linear layers of a model's own classes to nn.Linear, so that adapters can be added.

    For example, Falcon has such a class. A layer whose output differs from that of nn.Linear is not
    changed.
    """
    for module in inner.modules():
        kind = type(module)
        if not isinstance(module, nn.Linear) or not kind.__module__.startswith(OWN_CODE):
            continue
        x = torch.linspace(-1, 1, module.in_features).to(module.weight).unsqueeze(0)
        plain, own = F.linear(x, module.weight, module.bias), module(x)
        same = isinstance(own, Tensor) and own.shape == plain.shape
        if same and torch.allclose(own, plain, rtol=1e-5):
            module.__class__ = nn.Linear
