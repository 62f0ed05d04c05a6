"""EarlyStopping: stops a run when its evaluations no longer improve."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer.callbacks.callback import Ask, Callback
from trainer.errors import InputError


@dataclass
class EarlyStopping(Callback):
    """Asks to stop after `patience` evaluations in a row without a better metric."""

    patience: int
    """The number of evaluations to wait for a better metric; at least 1."""
    threshold: float = 0.0
    """A metric counts as better only if it beats the best one so far by more than this."""
    metric: str = ""
    """The run's metric for the best model, such as eval_accuracy; required with a threshold."""

    def __post_init__(self) -> None:
        self.restart()
        if self.patience < 1:
            raise InputError(f"early stopping: found patience {self.patience}; accepted: 1 or more")
        if self.threshold < 0:
            found = f"found threshold {self.threshold}"
            raise InputError(f"early stopping: {found}; accepted: 0 or more")
        if self.threshold and not self.metric:
            raise InputError("early stopping: a threshold needs the name of the metric")

    def restart(self) -> None:
        """Forget the evaluations so far."""
        self._waited = 0
        self._best: float | None = None

    def on_evaluate(self, step: int, metrics: Mapping[str, float], improved: bool) -> Ask | None:
        better = improved and self._exceeds_threshold(metrics)
        self._waited = 0 if better else self._waited + 1
        if self._waited < self.patience:
            return None
        return Ask(stop=True, reason=f"no better evaluation in {self._waited} in a row")

    def _exceeds_threshold(self, metrics: Mapping[str, float]) -> bool:
        if not self.threshold:
            return True
        before, self._best = self._best, metrics[self.metric]
        return before is None or abs(self._best - before) > self.threshold

    def state(self) -> dict[str, Any]:
        best = {} if self._best is None else {"best": self._best}
        metric = {"metric": self.metric} if self.metric else {}
        return {"evaluations_waited": self._waited, **best, **metric}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._waited = int(state["evaluations_waited"])
        self._best = None if state.get("best") is None else float(state["best"])
        if self.metric and state.get("metric", self.metric) != self.metric:
            self.restart()  # counts and values of another metric say nothing about this one
