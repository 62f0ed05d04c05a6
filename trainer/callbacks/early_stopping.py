"""EarlyStopping: end a run whose evaluations no longer get better."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer.callbacks.callback import Ask, Callback
from trainer.errors import InputError


@dataclass
class EarlyStopping(Callback):
    """Asks to stop after `patience` evaluations in a row without a better metric."""

    patience: int
    """Evaluations to wait for a better one; at least 1."""

    def __post_init__(self) -> None:
        self._waited = 0
        if self.patience < 1:
            raise InputError(f"early stopping: found patience {self.patience}; accepted: 1 or more")

    def on_evaluate(self, step: int, metrics: Mapping[str, float], improved: bool) -> Ask | None:
        self._waited = 0 if improved else self._waited + 1
        if self._waited < self.patience:
            return None
        return Ask(stop=True, reason=f"no better evaluation in {self._waited} in a row")

    def state(self) -> dict[str, Any]:
        return {"evaluations_waited": self._waited}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._waited = int(state["evaluations_waited"])
