"""WithinOne: how often an ordered class is predicted within one step."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer.metrics.score import Score

if TYPE_CHECKING:
    import numpy as np


@dataclass
class WithinOne(Score):
    """The share of samples whose predicted class is the reference or adjacent to it."""

    name = "within_one"
    greater_is_better = True

    def score(self, predictions: "np.ndarray", references: "np.ndarray") -> float:
        return float((abs(predictions - references) <= 1).mean())
