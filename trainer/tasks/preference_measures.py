"""Measures of preferences over a whole data set: accuracies, margins and means.

N is the number of pairs, or of single completions.
"""

import math
from collections.abc import Mapping

import numpy as np


def of_pairs(chosen: np.ndarray, rejected: np.ndarray, what: str) -> dict[str, float]:
    """Measures of the rewards or scores [N] of pairs; `what` is "reward" or "score"."""
    return {
        "preference_accuracy": float((chosen > rejected).mean()),
        "margin": float((chosen - rejected).mean()),
        f"chosen_{what}": float(chosen.mean()),
        f"rejected_{what}": float(rejected.mean()),
    }


def of_good_and_bad(
    good: np.ndarray, right: np.ndarray, values: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Measures of single completions.

    `good` [N] says which completions are good, `right` [N] which the model judges correctly.
    `values` [N] are averaged over the good and over the bad completions, as good_<name> and
    bad_<name>; nan if there are none. The margin is computed from the value "reward".
    """
    found = {"preference_accuracy": float(right.mean())}
    for kind, members in (("good", good), ("bad", ~good)):
        for name, each in values.items():
            found[f"{kind}_{name}"] = float(each[members].mean()) if members.any() else math.nan
    return {**found, "margin": found["good_reward"] - found["bad_reward"]}
