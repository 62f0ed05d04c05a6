"""Figures: a recipe's own measurements of a training step, as sums and counts."""

from collections.abc import Mapping

import torch
from torch import Tensor

Figures = dict[str, tuple[Tensor, Tensor]]
"""The (sum, count) of each figure, by name; two scalars."""


def means(values: Mapping[str, Tensor]) -> Figures:
    """The figures that are means of these values, [N] each."""
    return {name: (each.sum(), torch.ones_like(each).sum()) for name, each in values.items()}


def of_pairs(chosen: Tensor, rejected: Tensor, what: str) -> Figures:
    """Figures of pairs' scores [N], such as how often the chosen exceeds the rejected one."""
    return means(
        {
            "preference_accuracy": (chosen > rejected).to(chosen),
            "margin": chosen - rejected,
            f"chosen_{what}": chosen,
            f"rejected_{what}": rejected,
        }
    )


def of_good_and_bad(good: Tensor, right: Tensor, values: Mapping[str, Tensor]) -> Figures:
    """Figures of single completions.

    `good` [N] says which completions are good, `right` [N] which the model judges correctly.
    `values` [N] are averaged over the good and over the bad completions, as good_<name> and
    bad_<name>.
    """
    found = means({"preference_accuracy": right.to(next(iter(values.values())))})
    for kind, members in (("good", good), ("bad", ~good)):
        for name, each in values.items():
            found[f"{kind}_{name}"] = ((each * members).sum(), members.to(each).sum())
    return found
