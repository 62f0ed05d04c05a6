"""Label config: labels and the kind of problem as entries of config.json."""

import json
from collections.abc import Mapping
from typing import Any

from trainer.errors import InputError
from trainer.foreign.numbers import decimal

DEFAULT_NUM_LABELS = 2
"""The number of labels of a config.json without id2label, as in transformers."""


def config_of_labels(problem: str, labels: list[str] | None) -> dict[str, Any]:
    """The entries of config.json for a problem. Raises InputError if labels are not known."""
    if problem == "regression":
        return {"num_labels": 1, "problem_type": "regression"}
    names = names_of_labels(labels)
    if problem == "auto":
        raise InputError("recipe.problem: not known; give it, or rows to learn it from")
    return {**names, "problem_type": f"{problem}_classification"}


def names_of_labels(labels: list[str] | None) -> dict[str, Any]:
    """The entries of config.json that name labels. Raises InputError if they are not known."""
    if labels is None:
        raise InputError("recipe.labels: not known; give them, or rows to learn them from")
    return {
        "id2label": dict(enumerate(labels)),
        "label2id": {name: i for i, name in enumerate(labels)},
    }


def options_of_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe options `problem` and `labels` that a foreign model's config.json implies."""
    labels = labels_of_config(config)
    problem = str(config.get("problem_type") or "").removesuffix("_classification")
    if problem not in ("single_label", "multi_label", "regression"):
        problem = "regression" if len(labels) == 1 else "single_label"
    return {"problem": problem, "labels": None if problem == "regression" else labels}


def plain_json(config: Mapping[str, Any]) -> dict[str, Any]:
    """Entries of config.json as read back from the file, with strings as keys."""
    found: dict[str, Any] = json.loads(json.dumps(dict(config)))
    return found


def labels_of_config(config: Mapping[str, Any]) -> list[str]:
    """The label names of a foreign model's config.json, in the order of their ids."""
    names = config.get("id2label") or {i: f"LABEL_{i}" for i in range(DEFAULT_NUM_LABELS)}
    if not isinstance(names, Mapping) or not all(decimal(str(key)) is not None for key in names):
        raise InputError(f"config.json: id2label: found {names!r:.60}; accepted: {{id: name}}")
    return [str(names[key]) for key in sorted(names, key=int)]
