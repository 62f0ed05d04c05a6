"""Metric: what a measure of predictions promises."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


class Metric:
    """Compares predictions with references. Subclasses are dataclasses of what a user may set."""

    greater_is_better: bool
    """Whether a greater result is the better one; holds for every result of this metric."""

    def names(self) -> tuple[str, ...]:
        """The keys of what `compute` returns, known before it is called."""
        raise AssertionError(f"{type(self).__name__} names no results")

    def prepare(self) -> None:
        """Fetch what `compute` needs, so that what cannot work fails before the training."""

    def compute(self, predictions: "np.ndarray", references: "np.ndarray") -> dict[str, float]:
        """The results by name, over the whole data set ([N] or [N, C] each); nan: undefined."""
        raise AssertionError(f"{type(self).__name__} computes nothing")
