"""ScoreModule: a score as an `evaluate` module that needs neither the hub nor the disk."""

import importlib
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Features, Sequence, Value


def _evaluate_alone() -> Any:
    """The `evaluate` package; its evaluators, unused here, would load transformers for seconds."""
    if "transformers" in sys.modules:
        return importlib.import_module("evaluate")
    sys.modules["transformers"] = None  # type: ignore[assignment]  # "not installed"
    try:
        return importlib.import_module("evaluate")
    finally:
        del sys.modules["transformers"]


if TYPE_CHECKING:
    import evaluate

    from trainer.metrics.score import Score
else:
    evaluate = _evaluate_alone()


class ScoreModule(evaluate.Metric):
    """Checks types and lengths as `evaluate` does, holds the rows in memory, lets `score` count."""

    def __init__(self, score: "Score", dimensions: int):
        self._score = score
        self._dimensions = dimensions
        super().__init__(keep_in_memory=True)

    def _build_data_dir(self) -> str:
        """No folder: the base class would make one in the user's cache and leave it empty."""
        return ""

    def _info(self) -> evaluate.MetricInfo:
        value = Value("int64" if self._score.of_classes else "float64")
        feature = value if self._dimensions == 1 else Sequence(value)
        return evaluate.MetricInfo(
            description=type(self._score).__doc__ or "",
            citation="",
            features=Features({"predictions": feature, "references": feature}),
        )

    def _compute(self, *, predictions: Any, references: Any) -> dict[str, float]:
        score = self._score.score(np.asarray(predictions), np.asarray(references))
        return dict.fromkeys(self._score.names(), float(score))
