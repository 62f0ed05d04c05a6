"""The optimizers of torch.optim, each under its own name."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from trainer.settings import TrainSettings
from trainer.training.parameter_groups import NamedParameters, parameter_groups

ELEMENTWISE = (
    "adadelta",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "asgd",
    "nadam",
    "radam",
    "rmsprop",
    "rprop",
    "sgd",
)
"""The optimizers with elementwise updates; Adafactor and Muon use whole matrices."""
WITHOUT_SUPPORT = ("optimizer", "lbfgs", "sparseadam")
"""Excluded: the base class, LBFGS (several losses per step), SparseAdam (sparse gradients only)."""


def classes() -> dict[str, type[torch.optim.Optimizer]]:
    """The supported optimizer classes by name, in lower case."""
    return {
        name.lower(): value
        for name, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, torch.optim.Optimizer)
        if name.lower() not in WITHOUT_SUPPORT
    }


def builder(
    kind: type[torch.optim.Optimizer],
) -> Callable[[NamedParameters, TrainSettings], torch.optim.Optimizer]:
    """Return the `build` function of an optimizer class."""

    def build(named_parameters: NamedParameters, settings: TrainSettings) -> torch.optim.Optimizer:
        groups = parameter_groups(named_parameters, settings)
        options = {"lr": settings.learning_rate, **settings.optimizer_options}
        return kind(groups, **fused_where_possible(kind, options))

    return build


def fused_where_possible(
    kind: type[torch.optim.Optimizer], options: Mapping[str, Any]
) -> dict[str, Any]:
    """The options, with fused=True if the class supports it and no implementation is chosen."""
    fusible = kind in (torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD)
    chooses = options.keys() & {"foreach", "fused", "differentiable"}
    return {**options, "fused": True} if fusible and not chooses else dict(options)
