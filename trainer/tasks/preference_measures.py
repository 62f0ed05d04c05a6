"""Measures of preferences over a whole data set: accuracies, margins and means.

N is the number of pairs, or of single completions.
"""

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
    `values` [N] are averaged over the good and over the bad completions, if there are any, as
    good_<name> and bad_<name>. The margin is computed from the value "reward".
    """
    found = {"preference_accuracy": float(right.mean())}
    for kind, members in (("good", good), ("bad", ~good)):
        if members.any():
            found |= {
                f"{kind}_{name}": float(each[members].mean()) for name, each in values.items()
            }
    if good.any() and not good.all():
        found["margin"] = found["good_reward"] - found["bad_reward"]
    return found
