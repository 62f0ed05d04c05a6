"""Class weights: the weight of each class in a loss, given or computed from class frequencies."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainer.errors import InputError, nearest

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

    from trainer.tasks.label_column import LabelColumn

BALANCED = "balanced"
"""Rare classes weigh more: a weight is the mean number of rows per class, divided by the number of
rows of its class."""


def check_class_weights(given: object) -> None:
    """Raise InputError unless given a mapping of labels to weights, "balanced" or None."""
    if given is not None and given != BALANCED and not isinstance(given, Mapping):
        accepted = "{label: weight} or balanced"
        raise InputError(f"recipe.class_weights: found {given!r}; accepted: {accepted}")


def learnt_weights(given: Any, column: "LabelColumn", rows: "Dataset") -> dict[str, float] | None:
    """Class name -> weight, in the order of class ids; 1 for a class that `given` does not name.

    Returns None if `given` is None. Raises InputError for an unknown label, for a weight that is
    negative or not finite, and if all weights are 0, since no loss would be left.
    """
    labels = column.labels
    assert labels is not None
    if given is None:
        return None
    if given == BALANCED:
        counts = column.counts(column.values(rows))
        mean = sum(counts) / len(labels)
        return {name: mean / max(1, counts[i]) for i, name in enumerate(labels)}
    for name in given:
        if str(name) not in labels:
            hint = nearest(str(name), labels)
            raise InputError(f"recipe.class_weights: no label '{name}'{hint}")
    for name, weight in given.items():
        if type(weight) not in (int, float) or not 0 <= weight < math.inf:
            found = f"found {name}: {weight!r}"
            raise InputError(f"recipe.class_weights: {found}; accepted: 0 or more")
    weights = {str(name): float(weight) for name, weight in given.items()}
    found_weights = {name: weights.get(name, 1.0) for name in labels}
    if not any(found_weights.values()):
        raise InputError("recipe.class_weights: found 0 for every label; at least one must be more")
    return found_weights


def weight_tensor(
    weights: Mapping[str, float] | None, labels: list[str] | None, like: "Tensor"
) -> "Tensor | None":
    """[C], the weights of C classes by id, in the dtype and on the device of `like`."""
    if weights is None:
        return None
    return like.new_tensor([weights[name] for name in labels or ()])
