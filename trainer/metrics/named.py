"""Metrics by their names: "accuracy", "f1", "f1_micro", as the Python API takes them."""

from collections.abc import Iterable, Mapping
from typing import Any

from trainer.errors import InputError, nearest
from trainer.metrics import classification, regression
from trainer.metrics.metric import Metric


def metrics_of(given: Any) -> dict[str, Metric]:
    """A metric, its name, several of either, or a mapping of both, by key.

    Raises InputError for anything else, naming what is accepted.
    """
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return {str(key): _metric(value) for key, value in given.items()}
    several = [given] if isinstance(given, (str, Metric, type)) else given
    if not isinstance(several, Iterable):
        raise _refusal(given)
    found = [_metric(each) for each in several]
    return {metric.names()[0]: metric for metric in found}


def known_metrics() -> dict[str, Metric]:
    """Every metric of this package by name; averaged ones also by name and average."""
    kinds: list[Any] = [
        kind
        for module in (classification, regression)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Metric) and "name" in vars(kind)
    ]
    averaged = [kind for kind in kinds if hasattr(kind, "average")]
    found: dict[str, Metric] = {kind.name: kind() for kind in kinds}
    for kind in averaged:
        found |= {f"{kind.name}_{name}": kind(average=name) for name in classification.AVERAGES}
    return found


def _metric(given: Any) -> Metric:
    if isinstance(given, Metric):
        return given
    if isinstance(given, type) and issubclass(given, Metric):
        try:
            return given()
        except TypeError as error:
            raise InputError(f"metrics: {given.__name__} needs arguments ({error})") from None
    if not isinstance(given, str):
        raise _refusal(given)
    known = known_metrics()
    if given not in known:
        accepted = ", ".join(sorted(known))
        raise InputError(
            f"metrics: found '{given}'; accepted: {accepted}, or a Metric{nearest(given, known)}"
        )
    return known[given]


def _refusal(given: Any) -> InputError:
    shown = "" if callable(given) else f" {given!r:.40}"
    found = f"found {type(given).__name__}{shown}"
    return InputError(f"metrics: {found}; accepted: names such as accuracy, or Metric objects")
