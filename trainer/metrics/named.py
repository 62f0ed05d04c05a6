"""Named metrics: "accuracy", "f1" or "f1_micro", as the Python API accepts them."""

import inspect
import sys
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

from trainer import registry
from trainer.errors import InputError
from trainer.metrics import (
    bleu,
    checked_texts,
    classification,
    entities,
    exact_texts,
    question_answering,
    regression,
    retrieval,
    rouge,
)
from trainer.metrics.functions import FunctionMetric
from trainer.metrics.metric import Metric

MODULES = (
    classification,
    entities,
    regression,
    retrieval,
    question_answering,
    exact_texts,
    checked_texts,
    bleu,
    rouge,
)
"""The modules of the metrics with short names."""


def metrics_of(given: object) -> dict[str, Metric]:
    """Metrics by key, from a metric, the name of one, a list of these, or a mapping {key: metric}.

    A metric may also be a function of (predictions, references).

    Raises InputError for other values, and for different metrics in a list whose first results have
    the same name.
    """
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return {str(key): _metric(value, str(key)) for key, value in given.items()}
    several = [given] if isinstance(given, (str, Metric, type)) else given
    if not isinstance(several, Iterable):
        raise _refusal(given)
    found: dict[str, Metric] = {}
    for metric in map(_metric, several):
        name = metric.names()[0]
        if found.setdefault(name, metric) != metric:
            accepted = "a different name for each result, such as {name: function}"
            raise InputError(f"metrics: found '{name}' twice; accepted: {accepted}")
    return found


def own_metrics() -> dict[str, str]:
    """The metrics of this package for the registry, as {name: "module:class"}."""
    return {kind.name: f"{kind.__module__}:{kind.__name__}" for kind in _own_classes()}


def known_metrics() -> dict[str, Metric]:
    """Every metric of this package by name, such as "f1"; with an average also as "f1_micro".

    squad_no_answer is the metric of SQuAD 2.0.
    """
    kinds = _own_classes()
    averaged = [kind for kind in kinds if hasattr(kind, "average")]
    found: dict[str, Metric] = {kind.name: kind() for kind in kinds}
    found["squad_no_answer"] = question_answering.Squad(no_answer=True)
    for kind in averaged:
        averages = vars(sys.modules[kind.__module__])["AVERAGES"]
        found |= {f"{kind.name}_{name}": kind(average=name) for name in averages}
    return found


def _metric(given: object, key: str = "") -> Metric:
    if isinstance(given, Metric):
        return given
    if inspect.isfunction(given) or inspect.ismethod(given) or isinstance(given, partial):
        return FunctionMetric(key or getattr(given, "__name__", "metric"), given)
    if isinstance(given, type) and issubclass(given, Metric):
        try:
            return given()
        except TypeError as error:
            raise InputError(f"metrics: {given.__name__} needs arguments ({error})") from None
    if not isinstance(given, str):
        raise _refusal(given)
    averaged = known_metrics()
    if given in averaged and given not in own_metrics():
        return averaged[given]
    if (averaged_metric := _with_average(given)) is not None:
        return averaged_metric
    return _metric(registry.find(registry.METRICS, given, "metrics"))


def _with_average(name: str) -> Metric | None:
    """Another package's metric with an average, for a name such as "mine_micro"."""
    base, _, average = name.rpartition("_")
    if not base:
        return None
    if registry.locate(registry.METRICS, name) or not registry.locate(registry.METRICS, base):
        return None
    kind = registry.find(registry.METRICS, base, "metrics")
    has_average = is_dataclass(kind) and "average" in {field.name for field in fields(kind)}
    return kind(average=average) if has_average and isinstance(kind, type) else None


def _own_classes() -> list[Any]:
    return [
        kind
        for module in MODULES
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Metric) and vars(kind).get("name")
    ]


def _refusal(given: object) -> InputError:
    shown = "" if callable(given) else f" {given!r:.40}"
    found = f"found {type(given).__name__}{shown}"
    return InputError(
        f"metrics: {found}; accepted: names such as accuracy, functions, or Metric objects"
    )
