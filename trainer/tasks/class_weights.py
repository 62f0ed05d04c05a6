"""Class weights: the weight of each class in a loss, given or computed from class frequencies."""

import math
from collections.abc import Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any

from trainer.data import labels as cells
from trainer.errors import InputError, nearest

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

    from trainer.tasks.label_column import LabelColumn

BALANCED = "balanced"
"""Rare classes weigh more: a weight is the mean number of rows per class, divided by the number of
rows of its class."""


def check_class_weights(given: object) -> None:
    """Raise InputError unless given a mapping of labels to weights, "balanced" or None.

    A weight must be a number of 0 or more.
    """
    if given is None or given == BALANCED:
        return
    if not isinstance(given, Mapping):
        accepted = "{label: weight} or balanced"
        raise InputError(f"recipe.class_weights: found {given!r}; accepted: {accepted}")
    for name, weight in given.items():
        is_number = isinstance(weight, Real) and not isinstance(weight, bool)
        if not is_number or not 0 <= weight < math.inf:
            found = f"found {name}: {weight!r}"
            raise InputError(f"recipe.class_weights: {found}; accepted: 0 or more")


def learnt_weights(given: Any, column: "LabelColumn", rows: "Dataset") -> dict[str, float] | None:
    """Class name -> weight, in the order of class ids; 1 for a class that `given` does not name.

    Returns None if `given` is None. Raises InputError for an unknown label, and if all weights are
    0, since no loss would be left.
    """
    labels = column.labels
    assert labels is not None
    if given is None:
        return None
    if given == BALANCED:
        counts = column.counts(column.values(rows))
        mean = sum(counts) / len(labels)
        return {name: mean / max(1, counts[i]) for i, name in enumerate(labels)}
    return _all_weights(given, labels)


def weight_tensor(
    weights: Mapping[str, float] | str | None, labels: list[str] | None, like: "Tensor"
) -> "Tensor | None":
    """[C], the weights of C classes by id, in the dtype and on the device of `like`.

    `weights` may be as the user gave them, since nothing is learnt from streams and rows of ids.
    Raises InputError for balanced weights, which need counts.
    """
    if weights is None:
        return None
    labels = labels or []
    if isinstance(weights, str):
        found = "found balanced, and the labels of streams and rows of ids are not counted"
        raise InputError(f"recipe.class_weights: {found}; accepted: {{label: weight}}, or null")
    known = weights if list(weights) == labels else _all_weights(weights, labels)
    return like.new_tensor([known[name] for name in labels])


def _all_weights(given: Mapping[Any, Any], labels: list[str]) -> dict[str, float]:
    """Class name -> weight, in the order of `labels`; see `learnt_weights`."""
    weights: dict[str, float] = {}
    for key, weight in given.items():
        name = str(key) if str(key) in labels else cells.name_of(key, "recipe.class_weights")
        if name not in labels:
            raise InputError(f"recipe.class_weights: no label '{name}'{nearest(name, labels)}")
        weights[name] = float(weight)
    found_weights = {name: weights.get(name, 1.0) for name in labels}
    if not any(found_weights.values()):
        raise InputError("recipe.class_weights: found 0 for every label; at least one must be more")
    return found_weights
