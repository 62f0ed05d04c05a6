"""Eval mode: disables dropout during generation."""

from collections.abc import Iterator
from contextlib import contextmanager

from trainer.generation.generative_model import GenerativeModel


@contextmanager
def eval_mode(model: GenerativeModel) -> Iterator[None]:
    """A context in which the model is in eval mode; afterwards its former mode is restored."""
    if not model.training:
        yield
        return
    model.eval()
    try:
        yield
    finally:
        model.train()


def prepare(model: GenerativeModel) -> None:
    """If a model is in eval mode, put all its modules, such as new adapters, into eval mode too.

    Then `eval_mode` only needs to check the model itself for each token. Visiting all modules for
    each token would take a third of a small model's time.
    """
    if not model.training:
        model.eval()
