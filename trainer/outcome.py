"""Outcome: what a finished run tells of itself: results.json and predictions.jsonl."""

import importlib.metadata
import json
import platform
from collections.abc import Iterator
from typing import Any

import numpy as np

from trainer.checkpoint.files import finite_or_null
from trainer.evaluation import Evaluation
from trainer.metrics.report import classification_report
from trainer.recipe import Recipe

PACKAGES = ("torch", "accelerate", "datasets", "evaluate", "tokenizers", "safetensors", "numpy")


def class_report(evaluation: Evaluation, recipe: Recipe) -> dict[str, Any] | None:
    """Per-class figures and the confusion matrix, where the task has one class a sample."""
    names = recipe.class_names
    if names is None or "references" not in evaluation.predictions:
        return None
    found, wanted = evaluation.predictions["predictions"], evaluation.predictions["references"]
    return classification_report(found, wanted, names).to_dict()


def prediction_lines(evaluation: Evaluation, recipe: Recipe, rows: Any) -> Iterator[str]:
    """One JSON line an example, the worst first: its row, loss, answer and what it was asked.

    What was asked is left out where the rows came as ids.
    """
    answers = recipe.answers(evaluation.predictions)
    losses = evaluation.losses
    order = range(len(answers)) if losses is None else np.argsort(-losses, kind="stable").tolist()
    for row in order:
        line = {"row": row, **({} if losses is None else {"loss": float(losses[row])})}
        line |= answers[row]
        if hasattr(rows, "__getitem__"):
            line["input"] = dict(rows[row])
        yield json.dumps(finite_or_null(line), ensure_ascii=False, default=str)


def versions() -> dict[str, str]:
    """The versions that a run depends on."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **found}
