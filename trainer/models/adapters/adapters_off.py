"""Disabling adapters temporarily, to call the base model."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from trainer.models.adapters import merging, token_rows
from trainer.models.adapters.adapted_layer import AdaptedLayer


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """A context in which adapted layers and embeddings use only their frozen weights.

    It does not affect models without adapters or parameters trained in full (such as a head's).
    """
    plain = {**merging.PLAIN, **token_rows.PLAIN}
    kinds = (AdaptedLayer, token_rows.TokenRows)
    adapted = [(module, type(module)) for module in model.modules() if isinstance(module, kinds)]
    try:
        for module, kind in adapted:
            module.__class__ = plain[kind]
        yield
    finally:
        for module, kind in adapted:
            module.__class__ = kind
