"""Reads some parameters of a model before the rest of its weights are loaded."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from torch import nn

from trainer.models.family_model import FamilyModel
from trainer.models.formats.loading import Pending
from trainer.models.model import Model


@contextmanager
def values_of(model: Model, module: nn.Module) -> Iterator[None]:
    """Context manager that gives a module of a lazily loaded model the values of its weights.

    On exit, the weights that were read from files go back to the meta device, and `fill` reads them
    once more. So no process holds the whole model before it is sharded. Does nothing if the
    model's weights are already loaded, or will be drawn at random.
    """
    if not isinstance(model, FamilyModel) or not isinstance(model.pending, Pending):
        yield
        return
    with model.pending.read_for_now(model, module):
        yield


def read_now(model: Model, names: Collection[str]) -> None:
    """Read the parameters with these names, and keep them. If the model gets random weights
    instead, all of them are drawn."""
    if not isinstance(model, FamilyModel) or model.pending is None:
        return
    if isinstance(model.pending, Pending):
        model.pending.fill_named(model, names)
    else:
        model.pending.fill(model, model)
