"""Scores of classes: accuracy, precision, recall, F1 and Matthews' correlation."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer.metrics.score import Score

if TYPE_CHECKING:
    import numpy as np

AVERAGES = ("macro", "micro", "weighted", "binary")


@dataclass(frozen=True)
class Accuracy(Score):
    """Share of samples whose class, or whose whole label set, is predicted."""

    name = "accuracy"
    greater_is_better = True
    of_classes = True
    of_label_sets = True

    def score(self, predictions: "np.ndarray", references: "np.ndarray") -> float:
        from sklearn.metrics import accuracy_score

        return accuracy_score(references, predictions)


@dataclass(frozen=True)
class Matthews(Score):
    """Matthews' correlation of class ids; 0 where either side has one class only.

    Several classes: R_K of Gorodkin, Computational Biology and Chemistry 28 (2004).
    """

    name = "matthews"
    greater_is_better = True
    of_classes = True

    def score(self, predictions: "np.ndarray", references: "np.ndarray") -> float:
        from sklearn.metrics import matthews_corrcoef

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "a single label was found" is an answer: 0
            return matthews_corrcoef(references, predictions)


@dataclass(frozen=True)
class _Averaged(Score):
    """A score of each class, averaged.

    As in scikit-learn, the classes are those that occur in the references or the predictions
    (label sets: all C), and 0/0 of one class, say the precision of one that was never predicted,
    counts as 0. Where no class that counts occurs on either side, the result is nan.
    """

    average: str = "macro"
    """macro (plain mean of the classes), micro (all decisions alike), weighted (by samples of the
    class), or binary (class 1 alone)."""

    of_classes = True
    of_label_sets = True
    greater_is_better = True

    def __post_init__(self) -> None:
        if self.average not in AVERAGES:
            accepted = ", ".join(AVERAGES)
            raise self._refusal(f"average '{self.average}'", f"average: {accepted}")

    def names(self) -> tuple[str, ...]:
        return (f"{self.name}_{self.average}",)

    def _scored(
        self, function: Callable[..., float], predictions: "np.ndarray", references: "np.ndarray"
    ) -> float:
        if self.average == "binary":
            self._check_binary(predictions, references)
        counted = self.average == "binary" or references.ndim == 2
        if counted and not (predictions.any() or references.any()):
            return math.nan
        return function(references, predictions, average=self.average, zero_division=0)

    def _check_binary(self, predictions: "np.ndarray", references: "np.ndarray") -> None:
        highest = max(predictions.max(), references.max())
        if references.ndim == 2 or highest > 1:
            found = "label sets" if references.ndim == 2 else f"class {highest}"
            raise self._refusal(found, f"two classes, or average: {', '.join(AVERAGES[:3])}")


@dataclass(frozen=True)
class Precision(_Averaged):
    """Share of what was predicted to be a class that is of it."""

    name = "precision"

    def score(self, predictions: "np.ndarray", references: "np.ndarray") -> float:
        from sklearn.metrics import precision_score

        return self._scored(precision_score, predictions, references)


@dataclass(frozen=True)
class Recall(_Averaged):
    """Share of what is of a class that was predicted to be."""

    name = "recall"

    def score(self, predictions: "np.ndarray", references: "np.ndarray") -> float:
        from sklearn.metrics import recall_score

        return self._scored(recall_score, predictions, references)


@dataclass(frozen=True)
class F1(_Averaged):
    """Harmonic mean of precision and recall."""

    name = "f1"

    def score(self, predictions: "np.ndarray", references: "np.ndarray") -> float:
        from sklearn.metrics import f1_score

        return self._scored(f1_score, predictions, references)
