"""OwnOptimizer: the user's optimizer, and optionally scheduler, in place of ours."""

import copy
import warnings
from typing import Any

import torch
from torch import nn

from trainer.errors import InputError
from trainer.models.sharded import is_sharded
from trainer.settings import TrainSettings, default_of

REPLACED_BY_OPTIMIZER = ("optimizer", "optimizer_options", "parameter_groups", "layer_decay")
REPLACED_BY_SCHEDULER = (
    "lr_scheduler",
    "lr_scheduler_options",
    "warmup_steps",
    "min_learning_rate",
)
"""The settings that a user's optimizer replaces, and those that a user's scheduler replaces."""
ACCEPTED = "accepted: (a torch optimizer over the model's parameters, its scheduler or None)"


class OwnOptimizer:
    """An optimizer and its scheduler, reset to their initial state at the start of every `fit`.

    Without a scheduler, the schedule of the settings scales the groups' initial rates. A scheduler
    steps once per optimizer step, so its rates depend only on the step; a resumed run repeats the
    scheduler's steps. A checkpoint holds only the optimizer's moments.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, scheduler: Any) -> None:
        self.optimizer, self.scheduler = optimizer, scheduler
        self._optimizer_state = copy.deepcopy(optimizer.state_dict())
        self._scheduler_state = copy.deepcopy(scheduler.state_dict()) if scheduler else None
        self._rates: list[list[float]] = []

    @property
    def name(self) -> str:
        """The name that checkpoints record instead of `trainer.optimizer`."""
        kinds = [each for each in (self.optimizer, self.scheduler) if each is not None]
        return "own " + " and ".join(type(each).__name__ for each in kinds)

    def check(self, model: nn.Module, settings: TrainSettings) -> None:
        """Raise InputError unless the optimizer has all trained parameters and no foreign ones.

        Also refuses settings that the optimizer replaces, since they would have no effect.
        """
        replaced = [
            *REPLACED_BY_OPTIMIZER,
            *(REPLACED_BY_SCHEDULER if self.scheduler is not None else ()),
        ]
        for name in replaced:
            if (found := getattr(settings, name)) != default_of(name):
                what = f"found {found!r} with your own optimizer or schedule"
                raise InputError(f"trainer.{name}: {what}; accepted: one of the two")
        if is_sharded(model):
            raise InputError("optimizers: not with launch.strategy=fsdp; accepted: ddp")
        owned = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        foreign = owned - {id(p) for p in model.parameters()}
        if foreign:
            found = f"{len(foreign)} of its {len(owned)} parameters are not the model's"
            raise InputError(f"optimizers: {found}; {ACCEPTED}")
        if left_out := [name for name, p in trained if id(p) not in owned]:
            more = f" and {len(left_out) - 1} more" * (len(left_out) > 1)
            found = f"{left_out[0]}{more} would not be trained"
            raise InputError(f"optimizers: {found}; accepted: requires_grad=False for them")

    def begin(self, settings: TrainSettings) -> torch.optim.Optimizer:
        """Reset the optimizer and its scheduler to their initial state; returns the optimizer."""
        self.optimizer.load_state_dict(copy.deepcopy(self._optimizer_state))
        if self.scheduler is not None:
            self.scheduler.load_state_dict(copy.deepcopy(self._scheduler_state))
            self._rates = [[float(group["lr"]) for group in self.optimizer.param_groups]]
        else:
            for group in self.optimizer.param_groups:
                group["lr_scale"] = float(group["lr"]) / settings.learning_rate
        return self.optimizer

    def rates(self, step: int) -> list[float]:
        """Each group's rate in a step, from the scheduler."""
        groups = self.optimizer.param_groups
        with warnings.catch_warnings():
            # on resume the scheduler steps before the optimizer, which torch warns about
            warnings.simplefilter("ignore")
            while len(self._rates) <= step:
                for group, rate in zip(groups, self._rates[-1], strict=True):
                    group["lr"] = rate  # chained schedules compute each rate from the previous one
                self._step_scheduler()
                self._rates.append([float(group["lr"]) for group in groups])
        return self._rates[step]

    def _step_scheduler(self) -> None:
        """Raise InputError for a schedule that is shorter than the run, such as OneCycleLR's."""
        try:
            self.scheduler.step()
        except ValueError as error:
            where = (
                f"optimizers: {type(self.scheduler).__name__} before step {len(self._rates) + 1}"
            )
            raise InputError(f"{where}: {' '.join(str(error).split())}") from error

    def learning_rate(self, step: int) -> float:
        """The maximum rate of a step; a group's `lr_scale` is relative to it."""
        rates = self.rates(step)
        peak = max(rates)
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr_scale"] = rate / peak if peak else 1.0
        return peak


def own_optimizer(given: object) -> OwnOptimizer | None:
    """The user's optimizer and scheduler, from `Trainer(optimizers=...)`; None for (None, None).

    Raises InputError for other values, and for schedules that depend on metrics.
    """
    if given is None:
        return None
    if isinstance(given, torch.optim.Optimizer):
        given = (given, None)
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise InputError(f"optimizers: found {type(given).__name__}; {ACCEPTED}")
    optimizer, scheduler = given
    if optimizer is None and scheduler is None:
        return None
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise InputError(f"optimizers: found {type(optimizer).__name__} first; {ACCEPTED}")
    if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        accepted = "accepted: None, with trainer.lr_scheduler=reduce_on_plateau"
        raise InputError(
            f"optimizers: found ReduceLROnPlateau, which depends on metrics; {accepted}"
        )
    if scheduler is not None and getattr(scheduler, "optimizer", None) is not optimizer:
        raise InputError(f"optimizers: found a scheduler of another optimizer; {ACCEPTED}")
    methods = ("step", "state_dict", "load_state_dict")
    if scheduler is not None and not all(hasattr(scheduler, name) for name in methods):
        found = f"found {type(scheduler).__name__} second, without {', '.join(methods)}"
        raise InputError(f"optimizers: {found}; {ACCEPTED}")
    return OwnOptimizer(optimizer, scheduler)
