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


def restart(callbacks: Sequence[Callback]) -> None:
    """Let the callbacks that count evaluations forget those of an earlier training."""
    for each in callbacks:
        if isinstance(each, (EarlyStopping, ReduceOnPlateau)):
            each.restart()


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
        self.restart()

    def restart(self) -> None:
        """Return to the full learning rate, and forget the evaluations so far."""
        self._begin_count()
        self.scale = 1.0
        """The current factor of the peak learning rate."""

    def _begin_count(self) -> None:
        self._best: float | None = None
        self._waited = 0
        self._cooling = 0

    def on_evaluate(self, step: int, metrics: Mapping[str, float], improved: bool) -> Ask | None:
        # only a new best value (`improved`) can be better than `_best` by the threshold; an
        # evaluation that is not finite may lack the metric
        if improved and self._exceeds_threshold(metrics[self.metric]):
            self._best, self._waited = metrics[self.metric], 0
        else:
            self._waited += 1
        if self._cooling:
            self._cooling, self._waited = self._cooling - 1, 0
        if self._waited > self.patience:
            self.scale *= self.factor
            self._cooling, self._waited = int(self.cooldown), 0
        return None

    def _exceeds_threshold(self, value: float) -> bool:
        best = self._best
        return best is None or abs(value - best) > self.threshold * abs(best)

    def state(self) -> dict[str, Any]:
        return {
            "scale": self.scale,
            "best": self._best,
            "waited": self._waited,
            "cooling": self._cooling,
            "metric": self.metric,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        scale, best = float(state["scale"]), state["best"]
        if not 0.0 < scale <= 1.0:
            raise ValueError(f"scale is {scale}")
        self.scale, self._best = scale, None if best is None else float(best)
        self._waited, self._cooling = int(state["waited"]), int(state["cooling"])
        if state.get("metric", self.metric) != self.metric:
            self._begin_count()  # values of another metric say nothing about this one
