"""TargetReached: ends a run as soon as an evaluation reaches a target."""

from collections.abc import Mapping
from dataclasses import dataclass

from trainer.callbacks.callback import Ask, Callback
from trainer.errors import InputError


@dataclass
class TargetReached(Callback):
    """Asks to save and to stop as soon as an evaluation's metric is at least a target."""

    metric: str
    """The name of an evaluation result, such as eval_accuracy."""
    target: float
    """The value to reach."""

    def on_evaluate(self, step: int, metrics: Mapping[str, float], improved: bool) -> Ask | None:
        if self.metric not in metrics:
            found = f"found '{self.metric}'; accepted: {', '.join(metrics)}"
            raise InputError(f"callbacks.target_reached.metric: {found}")
        if metrics[self.metric] < self.target:
            return None
        reason = f"{self.metric} is {metrics[self.metric]:.4g}, the target {self.target:g}"
        return Ask(stop=True, save=True, reason=reason)
