"""Seams: the user's functions and objects that replace parts of training, as in transformers."""

from dataclasses import dataclass, field
from typing import Any

from trainer.data.collators import Collator
from trainer.errors import InputError
from trainer.metrics.functions import MetricFunctions
from trainer.training.own_optimizer import OwnOptimizer, own_optimizer


@dataclass(frozen=True)
class Seams:
    """Functions and objects that replace parts of training."""

    collator: Collator | None = None
    """The function that makes a batch from rows."""
    functions: MetricFunctions = field(default_factory=MetricFunctions)
    """The functions that compute metrics from all logits and labels."""
    optimizer: OwnOptimizer | None = None
    """The user's optimizer and schedule."""


def seams_of(collator: Any, compute: Any, preprocess: Any, optimizers: Any) -> Seams:
    """The seams for these arguments of `Trainer`. Raises InputError for values of a wrong type."""
    for name, function, takes in (
        ("data_collator", collator, "a list of rows"),
        ("compute_metrics", compute, "an EvalPrediction (predictions, label_ids)"),
        ("preprocess_logits_for_metrics", preprocess, "(logits, labels)"),
    ):
        if function is not None and not callable(function):
            found = f"found {type(function).__name__}"
            raise InputError(f"{name}: {found}; accepted: a function of {takes}")
    if preprocess is not None and compute is None:
        found = "given without compute_metrics, which alone reads its results"
        raise InputError(f"preprocess_logits_for_metrics: {found}; accepted: both")
    return Seams(collator, MetricFunctions(compute, preprocess), own_optimizer(optimizers))
