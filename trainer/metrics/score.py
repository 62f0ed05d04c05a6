"""Score: a metric of one number that is computed offline, through an `evaluate` module."""

import math
from typing import TYPE_CHECKING

from trainer.errors import InputError
from trainer.metrics.metric import Metric

if TYPE_CHECKING:
    import numpy as np


class Score(Metric):
    """One named number. Subclasses say `name` and `score`; no samples at all give nan."""

    name: str
    """What is measured; the key of the result, unless `names` says more."""
    of_classes: bool
    """Whether it compares class ids [N] or label sets [N, C] of 0 and 1, not numbers [N]."""
    of_label_sets: bool = False
    """Whether label sets are accepted too."""

    def score(self, predictions: "np.ndarray", references: "np.ndarray") -> float:
        """The number itself, for int64 classes or float64 values of equal shapes."""
        raise AssertionError(f"{type(self).__name__} has no score")

    def names(self) -> tuple[str, ...]:
        return (self.name,)

    def prepare(self) -> None:
        import trainer.metrics.module  # noqa: F401  (seconds, better spent before the training)

    def compute(self, predictions: "np.ndarray", references: "np.ndarray") -> dict[str, float]:
        """The one result; raises InputError where the arrays are not what this metric compares."""
        if predictions.shape != references.shape:
            shapes = f"{list(predictions.shape)} and {list(references.shape)}"
            raise self._refusal(f"predictions and references of shapes {shapes}", "equal shapes")
        predictions, references = self._typed(predictions), self._typed(references)
        if not len(references):
            return dict.fromkeys(self.names(), math.nan)
        from trainer.metrics.module import ScoreModule  # takes seconds to import

        return ScoreModule(self, references.ndim).compute(
            predictions=predictions, references=references
        )

    def _typed(self, array: "np.ndarray") -> "np.ndarray":
        kinds, dtype = ("biu", "int64") if self.of_classes else ("biuf", "float64")
        dimensions = (1, 2) if self.of_label_sets else (1,)
        if array.dtype.kind not in kinds or array.ndim not in dimensions:
            classes = "class ids [N]" + " or label sets [N, C] of 0 and 1" * self.of_label_sets
            accepted = classes if self.of_classes else "numbers [N]"
            raise self._refusal(f"{array.dtype} of shape {list(array.shape)}", accepted)
        return array.astype(dtype)

    def _refusal(self, found: str, accepted: str) -> InputError:
        return InputError(f"metrics: {self.name}: found {found}; accepted: {accepted}")
