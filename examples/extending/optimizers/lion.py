"""Lion (Chen et al., arXiv:2302.06675): updates weights by the sign of a momentum."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from trainer.errors import InputError
from trainer.settings import TrainSettings
from trainer.training.parameter_groups import NamedParameters, parameter_groups

ELEMENTWISE = True


def build(named_parameters: NamedParameters, settings: TrainSettings) -> torch.optim.Optimizer:
    """Build Lion with the settings' parameter groups and the option `betas`."""
    groups = parameter_groups(named_parameters, settings)
    return Lion(groups, lr=settings.learning_rate, **settings.optimizer_options)


class Lion(torch.optim.Optimizer):
    """Lion, with one moving average of gradients per parameter: `exp_avg`."""

    def __init__(
        self,
        groups: Iterable[Any],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            found = f"found {betas}"
            accepted = "two numbers, each at least 0 and below 1"
            raise InputError(f"trainer.optimizer_options.betas: {found}; accepted: {accepted}")
        defaults = {"lr": lr, "betas": betas, "weight_decay": weight_decay}
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            first, second = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is not None:
                    moment = self._moment(parameter)
                    update = moment.lerp(parameter.grad, 1 - first).sign_()
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.sub_(group["lr"] * update)
                    moment.lerp_(parameter.grad, 1 - second)

    def _moment(self, parameter: nn.Parameter) -> torch.Tensor:
        state = self.state[parameter]
        if not state:
            state["exp_avg"] = torch.zeros_like(parameter)
        found: torch.Tensor = state["exp_avg"]
        return found
