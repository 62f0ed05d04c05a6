"""Outcome: what a run or an evaluation tells of itself, in files and to trackers."""

import importlib.metadata
import json
import platform
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np

from trainer.checkpoint.files import finite_or_null
from trainer.evaluation import Evaluation
from trainer.metrics.report import classification_report
from trainer.recipe import Recipe
from trainer.redaction import without_environment

PACKAGES = ("torch", "accelerate", "datasets", "evaluate", "tokenizers", "safetensors", "numpy")


def named_metrics(evaluations: Mapping[str, Evaluation]) -> dict[str, float]:
    """{"eval_loss": ...}, or {"eval_<set>_loss": ...} for named evaluation sets."""
    return {
        f"eval_{name}_{metric}" if name else f"eval_{metric}": value
        for name, evaluation in evaluations.items()
        for metric, value in evaluation.metrics.items()
    }


def evaluation_results(
    evaluations: Mapping[str, Evaluation], recipe: Recipe, model_path: str | None
) -> dict[str, Any]:
    """What a file of results tells of evaluations: the metrics, and the first set by class."""
    first = next(iter(evaluations.values()), None)
    results = {
        "metrics": named_metrics(evaluations),
        "model_path": model_path,
        "report": None if first is None else class_report(first, recipe),
        "versions": versions(),
    }
    return without_environment(results)


def class_report(evaluation: Evaluation, recipe: Recipe) -> dict[str, Any] | None:
    """Per-class figures and the confusion matrix, where the task has one class a sample."""
    names = recipe.class_names
    if len(evaluation.non_finite):  # a class that was chosen among NaNs says nothing
        return None
    if names is None or "references" not in evaluation.predictions:
        return None
    found, wanted = evaluation.predictions["predictions"], evaluation.predictions["references"]
    return classification_report(found, wanted, names).to_dict()


def prediction_lines(
    evaluation: Evaluation, recipe: Recipe, rows: Any, samples: Any = None
) -> Iterator[str]:
    """One JSON line an example, the worst first: its row, loss, answer and what it was asked.

    What was asked is left out where the rows came as ids. `samples` know the row of each, where
    rows were dropped; a block of several texts tells the one that it begins in.
    """
    found = getattr(samples, "rows", None)
    numbers = None if found is None else found.tolist()
    answers = recipe.answers(evaluation.predictions)
    losses = evaluation.losses
    order = np.arange(len(answers)) if losses is None else np.argsort(-losses, kind="stable")
    for row in order.tolist():
        number = row if numbers is None else numbers[row]
        line = {"row": number, **({} if losses is None else {"loss": float(losses[row])})}
        line |= answers[row]
        if hasattr(rows, "__getitem__") and recipe.blocks is None:
            line["input"] = dict(rows[number])
        yield json.dumps(without_environment(finite_or_null(line)), ensure_ascii=False, default=str)


@cache
def versions() -> dict[str, str]:
    """The versions that a run depends on."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **found}


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested config as dotted keys with plain values, as trackers want it."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            plain = isinstance(value, (int, float, str, bool))
            found[f"{prefix}{key}"] = value if plain else str(value)
    return found
