"""Bootstrap: computes confidence intervals for results, and for differences between runs."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import sklearn

from trainer.metrics.metric import Metric
from trainer.reports.comparison.compared_rows import ComparedRows
from trainer.tasks.comparison import Compared, Comparison

NUM_RESAMPLES = 1000
FEWEST = 100
"""The minimum number of resamples, even if they take longer than SECONDS."""
SECONDS = 20.0
"""After this many seconds, a metric stops resampling as soon as it has FEWEST resamples."""
LEVEL = 0.95
"""The confidence level of the intervals."""

Measured = Callable[[np.ndarray], Sequence[Sequence[float]]]
"""A function from row indices [N] to the results of each run on these rows."""


@dataclass(frozen=True)
class Interval:
    """The value of a result, and its confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference(Interval):
    """The difference between a run's value and that of the first run, on the same rows."""

    p: float
    """The two-sided p-value: twice the share of resamples whose difference is 0 or has the opposite
    sign."""


@dataclass(frozen=True)
class ComparedResult:
    """One result, such as accuracy, of all runs, with confidence intervals."""

    name: str
    intervals: Sequence[Interval]
    """One interval for each run."""
    differences: Sequence[Difference]
    """One difference for each run except the first, with which the others are compared."""
    num_resamples: int


def paired(
    rows: ComparedRows, metrics: Mapping[str, Metric], labels: Sequence[str], seed: int = 0
) -> list[ComparedResult]:
    """Compute 95 % intervals for the mean loss and every metric that applies to the predictions.

    The rows are drawn with replacement, and each resample has the same rows for all runs (paired
    bootstrap; Efron and Tibshirani, 1993; Koehn, EMNLP 2004).
    """
    found = []
    losses = rows.losses()
    if losses is not None:
        means = np.stack(losses)
        name = "mean loss of a row"
        found += _compared([name], lambda ids: means[:, ids].mean(1, keepdims=True), rows, seed)
    sides = rows.comparisons(labels) or []
    for metric in metrics.values() if sides else ():
        if sides[0].kind in metric.kinds or not metric.kinds:
            found += _compared(metric.names(), _measured(metric, sides), rows, seed)
    return found


def _measured(metric: Metric, sides: Sequence[Comparison]) -> Measured:
    def values(ids: np.ndarray) -> list[list[float]]:
        results = [
            metric.compute(_taken(side.predictions, ids), _taken(side.references, ids))
            for side in sides
        ]
        return [[result[name] for name in metric.names()] for result in results]

    return values


def _taken(side: Compared, ids: np.ndarray) -> Compared:
    return side[ids] if isinstance(side, np.ndarray) else [side[number] for number in ids.tolist()]


def _compared(
    names: Sequence[str], values: Measured, rows: ComparedRows, seed: int
) -> list[ComparedResult]:
    draw = np.random.default_rng(seed)
    whole = np.array(values(np.arange(rows.size)), dtype=float)
    started = time.monotonic()
    drawn: list[Sequence[Sequence[float]]] = []
    with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
        while len(drawn) < NUM_RESAMPLES:
            if len(drawn) >= FEWEST and time.monotonic() - started > SECONDS:
                break
            drawn.append(values(draw.integers(rows.size, size=rows.size)))
    found = np.array(drawn, dtype=float)
    return [_result(name, whole[:, n], found[:, :, n]) for n, name in enumerate(names)]


def _result(name: str, whole: np.ndarray, drawn: np.ndarray) -> ComparedResult:
    """The intervals of a result of R runs.

    `whole` [R] are the values on all rows, and `drawn` [resamples, R] are those on the resamples.
    """
    intervals = [
        Interval(v, *_interval_ends(drawn[:, run])) for run, v in enumerate(whole.tolist())
    ]
    differences = [
        _difference(whole[run] - whole[0], drawn[:, run] - drawn[:, 0])
        for run in range(1, len(whole))
    ]
    return ComparedResult(name, intervals, differences, len(drawn))


def _difference(value: float, drawn: np.ndarray) -> Difference:
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn) or np.isnan(value):
        return Difference(float(value), *_interval_ends(drawn), p=float("nan"))
    below, above = float((drawn <= 0).mean()), float((drawn >= 0).mean())
    return Difference(float(value), *_interval_ends(drawn), p=min(1.0, 2 * min(below, above)))


def _interval_ends(drawn: np.ndarray) -> tuple[float, float]:
    if np.isnan(drawn).all():
        return float("nan"), float("nan")
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.nanpercentile(drawn, [tail, 100 - tail])
    return float(low), float(high)
