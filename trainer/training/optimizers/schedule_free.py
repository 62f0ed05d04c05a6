"""Schedule-free AdamW: an average of weights instead of a decaying rate (arXiv:2405.15682)."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from trainer.errors import InputError
from trainer.settings import TrainSettings
from trainer.training.combined import CombinedOptimizer
from trainer.training.parameter_groups import Group, NamedParameters, parameter_groups

ELEMENTWISE = True
PACKAGE = "schedulefree"

COUNTERS = {"k": torch.int64, "weight_sum": torch.float64, "lr_max": torch.float64}
"""The library's counters in a parameter group, and the dtypes that store them exactly."""


def build(named_parameters: NamedParameters, settings: TrainSettings) -> torch.optim.Optimizer:
    """Use AdamWScheduleFree of the package `schedulefree`."""
    options = settings.optimizer_options
    if "warmup_steps" in options:
        accepted = "trainer.warmup_steps"
        raise InputError(f"trainer.optimizer_options: found warmup_steps; accepted: {accepted}")
    if not options.get("betas", (0.9,))[0] > 0:
        found = f"found {options['betas']}"
        raise InputError(
            f"trainer.optimizer_options.betas: {found}; accepted: a first value above 0"
        )
    groups = parameter_groups(
        named_parameters, settings, lambda name, parameter: {"algorithm": "schedule_free"}
    )
    return ScheduleFree(groups, lr=settings.learning_rate, **options)


class ScheduleFree(CombinedOptimizer):
    """The library's optimizer. Training uses the weights y; the paper's average of weights is x.

    The library converts y to x and back by arithmetic that does not restore y bit for bit. So this
    class saves y while the model holds x. It copies the library's counters to the state of each
    parameter, so that a checkpoint contains them.
    """

    def part(
        self, algorithm: str, groups: list[Group], lr: float, options: Mapping[str, Any]
    ) -> torch.optim.Optimizer:
        from schedulefree import AdamWScheduleFree

        for group in groups:
            group["train_mode"] = True
        optimizer: torch.optim.Optimizer = AdamWScheduleFree(groups, lr=lr, **options)
        return optimizer

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            self._restore_counters(group)
        super().step(closure)
        for group in self.param_groups:
            self._save_counters(group)

    def _restore_counters(self, group: Group) -> None:
        """Copy counters restored from a checkpoint into the library's parameter group."""
        for parameter in group["params"]:
            state = self.state.get(parameter, {})
            if "k" in state and state["k"] is not group.get("kept"):
                group |= {name: state[name].item() for name in COUNTERS}
                return

    def _save_counters(self, group: Group) -> None:
        counters = {n: torch.tensor(group[n], dtype=dtype) for n, dtype in COUNTERS.items()}
        group["kept"] = counters["k"]
        for parameter in group["params"]:
            if "z" in self.state.get(parameter, {}):
                self.state[parameter].update(counters)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Context manager in which the parameters hold the average; then they are restored."""
        saved = [(parameter, parameter.detach().clone()) for parameter, _ in self.states()]
        library = self.parts["schedule_free"]
        library.eval()  # type: ignore[attr-defined]
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, weights in saved:
                    parameter.copy_(weights)
            for group in self.param_groups:
                group["train_mode"] = True
