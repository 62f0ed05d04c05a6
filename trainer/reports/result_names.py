"""Result names: splits names such as eval_dev_f1 into evaluation set, slice and metric."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

SIZE = "_samples"
"""The suffix of the name of the result with the size of a slice."""


class ResultName(NamedTuple):
    """The parts of a result's name; a missing part is empty."""

    set_name: str
    part: str
    """A slice of the set, or a task of a multi-task run."""
    metric: str


def result_names(keys: Iterable[str], sets: Sequence[str]) -> dict[str, ResultName]:
    """Split the keys that are results of evaluations: key -> parts of the name.

    Slices are recognized by the results for their sizes: if `eval_short_samples` exists, `short` is
    a slice.
    """
    bare = {key: key.removeprefix("eval_") for key in keys if key.startswith("eval_")}
    named = {key: _set_of(text, sets) for key, text in bare.items()}
    parts = {
        (name, rest.removesuffix(SIZE))
        for name, rest in named.values()
        if rest.endswith(SIZE) and rest != "non_finite_samples"
    }
    found = {}
    for key, (name, rest) in named.items():
        fitting = [p for s, p in parts if s == name and rest.startswith(f"{p}_")]
        part = max(fitting, key=len, default="")
        found[key] = ResultName(name, part, rest.removeprefix(f"{part}_") if part else rest)
    return found


def _set_of(text: str, sets: Sequence[str]) -> tuple[str, str]:
    """Split a name into the evaluation set with which it begins, and the rest."""
    fitting = [name for name in sets if name and text.startswith(f"{name}_")]
    name = max(fitting, key=len, default="")
    return name, text.removeprefix(f"{name}_") if name else text


def by_metric(names: Mapping[str, ResultName], *, parts: bool = False) -> dict[str, list[str]]:
    """Group keys by metric: metric -> keys of its results, one for each set; the loss is first.

    With `parts`, the results of slices are included.
    """
    found: dict[str, list[str]] = {}
    for key, name in names.items():
        if parts or not name.part:
            found.setdefault(name.metric, []).append(key)
    return dict(sorted(found.items(), key=lambda entry: entry[0] != "loss"))
