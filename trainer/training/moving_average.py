"""Averages of the weights, which are evaluated and saved instead of the last weights."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from trainer.checkpoint.state_checks import check_average


class ExponentialMovingAverage:
    """A moving average of the trained weights, in their dtype.

    `shadow` maps each parameter's name to its average.
    """

    def __init__(self, parameters: Sequence[tuple[str, nn.Parameter]], decay: float) -> None:
        self.decay = decay
        self.parameters = dict(parameters)
        self.shadow = {name: p.detach().clone() for name, p in parameters}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the weights by 1 - decay."""
        weights = [self.parameters[name].detach() for name in self.shadow]
        torch._foreach_lerp_(list(self.shadow.values()), weights, 1 - self.decay)

    def weights(self) -> dict[str, Tensor]:
        """The current weights, by parameter name; the average starts from them."""
        return {name: parameter.detach() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore a saved average. Raises InputError if it is an average of other weights."""
        check_average(tensors, self.shadow, "ema")
        for name, tensor in tensors.items():
            self.shadow[name].copy_(tensor)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Context manager: the model has the averaged weights until exit, then its own again."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, average in self.shadow.items():
            weight = self.parameters[name]
            trained = weight.clone()  # swap values in place: a sharded model refers to this memory
            weight.copy_(average)
            average.copy_(trained)


@runtime_checkable
class AveragesWeights(Protocol):
    """An optimizer that keeps an average of the weights, such as a schedule-free one."""

    def averaged(self) -> AbstractContextManager[None]:
        """Context manager: the parameters hold the average, and are restored exactly on exit."""


def shipped_weights(
    ema: ExponentialMovingAverage | None, optimizer: torch.optim.Optimizer | None
) -> AbstractContextManager[None]:
    """Context manager: the model has the weights to evaluate and save (an average, if one exists).

    `optimizer` is None if nothing was trained.
    """
    if ema is not None:
        return ema.applied()
    return optimizer.averaged() if isinstance(optimizer, AveragesWeights) else nullcontext()
