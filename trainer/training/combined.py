"""Combined optimizers: several optimizers that share one set of parameter groups."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.training.parameter_groups import Group
from trainer.training.torch_optimizers import fused_where_possible


class CombinedOptimizer(torch.optim.Optimizer):
    """An optimizer of several parts; each group's `algorithm` names the part that updates it.

    Subclasses create the parts in `part`. The parts share their groups and state with this
    optimizer, so that a schedule and a checkpoint see a single optimizer.
    """

    def __init__(self, groups: Sequence[Group], lr: float = 1e-3, **options: object) -> None:
        super().__init__([dict(group) for group in groups], {"lr": lr})
        self.parts: dict[str, torch.optim.Optimizer] = {}
        for name in dict.fromkeys(group["algorithm"] for group in self.param_groups):
            members = [group for group in self.param_groups if group["algorithm"] == name]
            self.parts[name] = self.part(name, members, lr, options)
            self.parts[name].state = self.state
        self.param_groups = [group for part in self.parts.values() for group in part.param_groups]

    def part(
        self, algorithm: str, groups: list[Group], lr: float, options: Mapping[str, Any]
    ) -> torch.optim.Optimizer:
        """Create the optimizer of an algorithm; `options` are `trainer.optimizer_options`."""
        raise AssertionError(f"{type(self).__name__} does not create {algorithm}")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None, "closures are not supported"
        for part in self.parts.values():
            part.step()

    def states(self) -> Iterator[tuple[Tensor, dict[str, Any]]]:
        """Pairs of parameter and state, for the parameters that have a state."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if state := self.state.get(parameter):
                    yield parameter, state


def adamw(groups: list[Group], lr: float, options: Mapping[str, Any]) -> torch.optim.AdamW:
    """Create torch's AdamW, for parameters that the main algorithm does not suit."""
    return torch.optim.AdamW(groups, lr=lr, **fused_where_possible(torch.optim.AdamW, options))
