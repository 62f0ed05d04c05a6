"""ScoreModule: a score as an `evaluate` module that needs neither the hub nor the disk."""

import importlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from datasets import Features, Sequence, Value

RESULT = "score"


def _evaluate_without_transformers() -> object:
    """The `evaluate` package without its evaluators, whose import of transformers takes seconds."""
    if "transformers" in sys.modules:
        return importlib.import_module("evaluate")
    sys.modules["transformers"] = None  # type: ignore[assignment]  # looks as if not installed
    try:
        return importlib.import_module("evaluate")
    finally:
        del sys.modules["transformers"]


if TYPE_CHECKING:
    import evaluate
else:
    evaluate = _evaluate_without_transformers()


class ScoreModule(evaluate.Metric):
    """Checks types and lengths as `evaluate` does, and passes the rows in memory to a function."""

    def __init__(
        self, function: Callable[[np.ndarray, np.ndarray], float], dtype: str, dimensions: int
    ):
        """`function(predictions, references)` gets arrays with this dtype and 1 or 2 dimensions."""
        self._function = function
        self._feature = Value(dtype) if dimensions == 1 else Sequence(Value(dtype))
        super().__init__(keep_in_memory=True)

    def value(self, predictions: np.ndarray, references: np.ndarray) -> float:
        """The function's result."""
        return self.compute(predictions=predictions, references=references)[RESULT]

    def _build_data_dir(self) -> str:
        """Create no folder: the base class would leave an empty one in the user's cache."""
        return ""

    def _info(self) -> evaluate.MetricInfo:
        features = Features({"predictions": self._feature, "references": self._feature})
        return evaluate.MetricInfo(
            description=self._function.__doc__ or "", citation="", features=features
        )

    def _compute(self, *, predictions: object, references: object) -> dict[str, float]:
        return {RESULT: float(self._function(np.asarray(predictions), np.asarray(references)))}
