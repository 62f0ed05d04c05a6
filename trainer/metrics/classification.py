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
    """The share of samples whose class, or whole label set, was predicted correctly."""

    name = "accuracy"
    greater_is_better = True
    kinds = ("classes", "label_sets")

    def score(self, predictions: "np.ndarray", references: "np.ndarray") -> float:
        from sklearn.metrics import accuracy_score

        return accuracy_score(references, predictions)


@dataclass(frozen=True)
class Matthews(Score):
    """Matthews' correlation of class ids; 0 if either side has only one class.

    For more than two classes it is R_K (Gorodkin, Computational Biology and Chemistry 28, 2004).
    """

    name = "matthews"
    greater_is_better = True
    kinds = ("classes",)

    def score(self, predictions: "np.ndarray", references: "np.ndarray") -> float:
        from sklearn.metrics import matthews_corrcoef

        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # a single class needs no warning, since the result is 0
            return matthews_corrcoef(references, predictions)


@dataclass(frozen=True)
class _Averaged(Score):
    """A score of each class, averaged over classes.

    As in scikit-learn, the average is over the classes that occur in the references or predictions,
    or for label sets over all C classes. A score of 0/0, such as the precision of a class that was
    never predicted, counts as 0. The result is nan if no class occurs on either side.
    """

    average: str = "macro"
    """macro (plain mean of the classes), micro (over all decisions), weighted (by samples of the
    class), or binary (class 1 alone)."""

    kinds = ("classes", "label_sets")
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
        average = self.average
        if references.ndim == 2 and references.shape[1] == 1:
            # scikit-learn would treat one column as two classes, and average over 0 and 1
            average, predictions, references = "binary", predictions[:, 0], references[:, 0]
        return function(references, predictions, average=average, zero_division=0)

    def _check_binary(self, predictions: "np.ndarray", references: "np.ndarray") -> None:
        highest = max(predictions.max(), references.max())
        if references.ndim == 2 or highest > 1:
            found = "label sets" if references.ndim == 2 else f"class {highest}"
            raise self._refusal(found, f"two classes, or average: {', '.join(AVERAGES[:3])}")


@dataclass(frozen=True)
class Precision(_Averaged):
    """The share of samples predicted as a class that belong to it."""

    name = "precision"

    def score(self, predictions: "np.ndarray", references: "np.ndarray") -> float:
        from sklearn.metrics import precision_score

        return self._scored(precision_score, predictions, references)


@dataclass(frozen=True)
class Recall(_Averaged):
    """The share of a class's samples that were predicted as that class."""

    name = "recall"

    def score(self, predictions: "np.ndarray", references: "np.ndarray") -> float:
        from sklearn.metrics import recall_score

        return self._scored(recall_score, predictions, references)


@dataclass(frozen=True)
class F1(_Averaged):
    """The harmonic mean of precision and recall."""

    name = "f1"

    def score(self, predictions: "np.ndarray", references: "np.ndarray") -> float:
        from sklearn.metrics import f1_score

        return self._scored(f1_score, predictions, references)
