"""Layered: the structure of a model that sharding, layer-wise rates and adapters rely on."""

from typing import Protocol, runtime_checkable

from torch import nn


@runtime_checkable
class Layered(Protocol):
    """The embeddings and layers of a model: a `Body`, or part of another library's model."""

    @property
    def embed(self) -> nn.Module:
        """The embedding module."""

    @property
    def units(self) -> list[tuple[str, nn.Module]]:
        """The layers in execution order, with their names; empty if they are not known."""


def layers_of(model: nn.Module | None) -> Layered | None:
    """The embeddings and layers of a model; None if its layers are not known."""
    body = getattr(model, "body", None)
    return body if isinstance(body, Layered) and body.units else None
