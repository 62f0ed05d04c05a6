"""Outcome: the results of a run or an evaluation, for files and trackers."""

import importlib.metadata
import json
import platform
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np

from trainer.checkpoint.files import finite_or_null
from trainer.data.sample_rows import SampleRows
from trainer.errors import InputError, nearest
from trainer.metrics.entities import entity_report
from trainer.metrics.report import classification_report
from trainer.redaction import without_environment
from trainer.training.evaluation import Evaluation

PACKAGES = ("torch", "accelerate", "datasets", "evaluate", "tokenizers", "safetensors", "numpy")


def named_metrics(evaluations: Mapping[str, Evaluation]) -> dict[str, float]:
    """{"eval_loss": ...}, or {"eval_<set>_loss": ...} for named evaluation sets."""
    return {
        f"eval_{name}_{metric}" if name else f"eval_{metric}": value
        for name, evaluation in evaluations.items()
        for metric, value in evaluation.metrics.items()
    }


def result(found: Mapping[str, float], name: str) -> float:
    """One result of an evaluation. Raises InputError if there is none with this name."""
    if name not in found:
        known = f"the evaluation has {', '.join(found)}{nearest(name, found)}"
        raise InputError(f"trainer.metric_for_best_model: found '{name}'; {known}")
    return found[name]


def evaluation_results(
    evaluations: Mapping[str, Evaluation], model_path: str | None
) -> dict[str, Any]:
    """The contents of a results file: all metrics, and the first set's report by class."""
    first = next(iter(evaluations.values()), None)
    results = {
        "metrics": named_metrics(evaluations),
        "model_path": model_path,
        "report": None if first is None else class_report(first),
        "versions": versions(),
    }
    return without_environment(results)


def class_report(evaluation: Evaluation) -> dict[str, Any] | None:
    """The report by class with the confusion matrix, or by type for spans; None for other tasks."""
    found = evaluation.comparison
    if found is not None and found.kind == "spans":
        return {"classes": entity_report(found.predictions, found.references), "confusion": None}
    if found is None or found.kind != "classes" or found.names is None:
        return None
    predictions, references = np.asarray(found.predictions), np.asarray(found.references)
    return classification_report(predictions, references, found.names).to_dict()


def prediction_lines(evaluation: Evaluation, rows: SampleRows) -> Iterator[str]:
    """One JSON line per sample, the greatest loss first: its row, loss, answer and input.

    The input is left out if the samples were given as ids, and for blocks of several texts. The row
    of a block is that of its first text.
    """
    recipe = evaluation.recipe
    answers = recipe.answers(evaluation.predictions, rows)
    losses = evaluation.losses
    order = np.arange(len(answers)) if losses is None else np.argsort(-losses, kind="stable")
    for sample in order.tolist():
        line: dict[str, Any] = {"row": rows.number_of(sample)}
        line |= {} if losses is None else {"loss": float(losses[sample])}
        line |= answers[sample]
        if rows.known and recipe.blocks is None:
            line["input"] = rows[sample]
        yield json.dumps(without_environment(finite_or_null(line)), ensure_ascii=False, default=str)


@cache
def versions() -> dict[str, str]:
    """The versions of the software that a run depends on."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **found}


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested config, flattened to dotted keys and plain values for trackers."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            plain = isinstance(value, (int, float, str, bool))
            found[f"{prefix}{key}"] = value if plain else str(value)
    return found
