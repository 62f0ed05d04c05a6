"""SweepSettings: the objective of a sweep, and the rule that ends jobs early."""

from dataclasses import dataclass, field
from typing import Any, Literal

from trainer.option_types import Options

PRUNERS = {
    "median": "MedianPruner",
    "percentile": "PercentilePruner",
    "successive_halving": "SuccessiveHalvingPruner",
    "hyperband": "HyperbandPruner",
    "threshold": "ThresholdPruner",
}
"""Optuna's class for each value of sweep.pruner."""


@dataclass(frozen=True)
class SweepSettings(Options, where="sweep"):
    """The objective of a sweep and the rule that ends jobs early; only for commands with -m."""

    objective: str | None = None
    """The evaluation result that a search optimizes and a pruner watches (accuracy); null: use
    trainer.metric_for_best_model."""
    pruner: Literal[
        "none", "median", "percentile", "successive_halving", "hyperband", "threshold"
    ] = "none"
    """The Optuna pruner that ends jobs whose evaluations are worse than those of others."""
    pruner_options: dict[str, Any] = field(default_factory=dict)
    """Arguments of the pruner, such as {n_startup_trials: 3, n_warmup_steps: 20}; a step is an
    optimizer step."""
