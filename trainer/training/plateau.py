"""Plateaus: lower the learning rate, or stop, when evaluations no longer improve."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.callbacks.callback import Ask, Callback
from trainer.callbacks.early_stopping import EarlyStopping
from trainer.choices import SCHEDULES
from trainer.settings import TrainSettings


def watchers(settings: TrainSettings, best_metric: Callable[[], str]) -> list[Callback]:
    """The callbacks for the settings, which watch the metric for the best model.

    `best_metric` returns the metric's name, or raises InputError if there is no such metric.
    """
    patience, found = settings.early_stopping_patience, list[Callback]()
    plateau = settings.lr_scheduler == "reduce_on_plateau"
    if patience is None and not plateau:
        return found
    metric = best_metric()
    if patience is not None:
        found.append(EarlyStopping(patience, settings.early_stopping_threshold, metric))
    if plateau:
        options: dict[str, Any] = {
            **SCHEDULES["reduce_on_plateau"],
            **settings.lr_scheduler_options,
        }
        found.append(ReduceOnPlateau(metric, **options))
    return found


def plateau_scale(callbacks: Sequence[Callback]) -> float:
    """The factor by which ReduceOnPlateau has reduced the peak learning rate; 1 without it."""
    return math.prod(each.scale for each in callbacks if isinstance(each, ReduceOnPlateau))


@dataclass
class ReduceOnPlateau(Callback):
    """Multiplies `scale` by `factor` after more than `patience` evaluations without a better value.

    The rules are those of torch's ReduceLROnPlateau. As a callback it receives every evaluation on
    every rank, and its state is in the checkpoint.
    """

    metric: str
    """The evaluation result to watch, such as eval_accuracy."""
    factor: float
    patience: float
    """The number of evaluations in a row without a better value that are tolerated."""
    threshold: float
    """A value counts as better if it differs from the best one by more than this share of it."""
    cooldown: float
    """The number of evaluations to ignore after each reduction."""

    def __post_init__(self) -> None:
        self.scale = 1.0
        """The current factor of the peak learning rate."""
        self._best: float | None = None
        self._waited = 0
        self._cooling = 0

    def on_evaluate(self, step: int, metrics: Mapping[str, float], improved: bool) -> Ask | None:
        value = metrics[self.metric]
        # only a new best value (`improved`) can be better than `_best` by the threshold
        if improved and (
            self._best is None or abs(value - self._best) > self.threshold * abs(self._best)
        ):
            self._best, self._waited = value, 0
        else:
            self._waited += 1
        if self._cooling:
            self._cooling, self._waited = self._cooling - 1, 0
        if self._waited > self.patience:
            self.scale *= self.factor
            self._cooling, self._waited = int(self.cooldown), 0
        return None

    def state(self) -> dict[str, Any]:
        return {
            "scale": self.scale,
            "best": self._best,
            "waited": self._waited,
            "cooling": self._cooling,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        scale, best = float(state["scale"]), state["best"]
        if not 0.0 < scale <= 1.0:
            raise ValueError(f"scale is {scale}")
        self.scale, self._best = scale, None if best is None else float(best)
        self._waited, self._cooling = int(state["waited"]), int(state["cooling"])
