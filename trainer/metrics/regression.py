"""Scores of numbers: Pearson's and Spearman's correlation and the mean squared error."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer.metrics.score import Score

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Pearson(Score):
    """Linear correlation; nan for constant values or fewer than two samples."""

    name = "pearson"
    greater_is_better = True
    kinds = ("numbers",)

    def score(self, predictions: "np.ndarray", references: "np.ndarray") -> float:
        from scipy.stats import pearsonr

        return _correlation(pearsonr, predictions, references)


@dataclass(frozen=True)
class Spearman(Score):
    """Correlation of ranks, with the mean rank for ties; nan when Pearson's correlation is nan."""

    name = "spearman"
    greater_is_better = True
    kinds = ("numbers",)

    def score(self, predictions: "np.ndarray", references: "np.ndarray") -> float:
        from scipy.stats import spearmanr

        return _correlation(spearmanr, predictions, references)


@dataclass(frozen=True)
class MeanSquaredError(Score):
    """Mean of the squared differences, in float64."""

    name = "mse"
    greater_is_better = False
    kinds = ("numbers",)

    def score(self, predictions: "np.ndarray", references: "np.ndarray") -> float:
        return ((predictions - references) ** 2).mean()


def _correlation(
    function: Callable[..., Any], predictions: "np.ndarray", references: "np.ndarray"
) -> float:
    if len(references) < 2:
        return math.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # constant values need no warning, since the result is nan
        return function(predictions, references).statistic
