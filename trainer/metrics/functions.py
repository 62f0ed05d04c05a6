"""Functions as metrics: functions of predictions and references, or of logits and labels."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

from trainer.errors import InputError
from trainer.metrics.metric import Metric

if TYPE_CHECKING:
    import numpy as np

    from trainer.tasks.comparison import Compared

Values = Any
"""An argument of a function: an array, or a tuple of arrays if a model has several outputs."""


@dataclass(frozen=True)
class EvalPrediction:
    """The argument of `compute_metrics`, as in transformers: `logits, labels = prediction`.

    N rows in the data set's order, all of them in memory. Rows of different lengths are padded with
    -100 to the longest.
    """

    predictions: Values
    """The model's outputs without the loss, or the result of `preprocess_logits_for_metrics`:
    [N, ...], a tuple of arrays if there are several."""
    label_ids: Values
    """The labels, [N, ...], or a tuple; None if rows have none."""
    inputs: "np.ndarray | None" = None
    losses: "np.ndarray | None" = None
    """[N], the mean loss of each row, if it is known."""

    def __iter__(self) -> Iterator[Values]:
        return iter((self.predictions, self.label_ids))

    def __getitem__(self, index: int) -> Values:
        return (self.predictions, self.label_ids)[index]


ComputeMetrics = Callable[[EvalPrediction], Mapping[str, float]]
"""The signature of transformers' `compute_metrics`."""
Preprocess = Callable[[Any, Any], Any]
"""A function of a batch's (logits, labels), on the device, that returns the values to keep."""


@dataclass(frozen=True)
class MetricFunctions:
    """The user's functions that compute metrics from logits."""

    compute: ComputeMetrics | None = None
    preprocess: Preprocess | None = None

    def measured(self, prediction: EvalPrediction) -> dict[str, float]:
        """The results of `compute`, keyed by name without eval_; only numbers are accepted."""
        if self.compute is None:
            return {}
        return numbers_of(self.compute(prediction), "compute_metrics")


class FunctionMetric(Metric):
    """A function of (predictions, references), which returns a number or a dict of numbers.

    The names of its results are not known before it is called. A smaller value is better for
    results such as loss or error, unless `trainer.greater_is_better` is set.
    """

    kinds = ()

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name, self.function = name, function
        self.greater_is_better = greater_is_better(name)

    def names(self) -> tuple[str, ...]:
        return (self.name,)

    def compute(self, predictions: "Compared", references: "Compared") -> dict[str, float]:
        found = self.function(predictions, references)
        named = found if isinstance(found, Mapping) else {self.name: found}
        return numbers_of(named, f"metrics.{self.name}")


def greater_is_better(name: str) -> bool:
    """Whether a greater value of an unknown result is better, guessed from its name."""
    smaller = ("loss", "error", "perplexity", "mse", "rmse", "mae", "wer", "cer")
    return not name.lower().endswith(smaller)


def numbers_of(found: object, where: str) -> dict[str, float]:
    """A function's results as floats, keyed by name without eval_.

    Raises InputError for other values.
    """
    accepted = "accepted: a dict of numbers, {'accuracy': 0.9}"
    if not isinstance(found, Mapping):
        raise InputError(f"{where}: returned {type(found).__name__}; {accepted}")
    numbers = {}
    for name, value in found.items():
        number = single(value)
        if number is None:
            number = math.nan
        if not isinstance(number, Real):
            shown = type(value).__name__
            raise InputError(f"{where}: returned '{name}' as {shown}; {accepted}")
        numbers[str(name).removeprefix("eval_")] = float(number)
    return numbers


def single(value: object) -> object:
    """The entry of an array or a tensor that has only one; other values are returned unchanged."""
    size = value.numel() if hasattr(value, "numel") else getattr(value, "size", 1)
    item = getattr(value, "item", None)
    return value if item is None or size != 1 else item()
