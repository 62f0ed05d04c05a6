"""ClassReport: precision, recall, F1 and support by class, and the confusion matrix."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ClassReport:
    """The figures of every class, in the order of `labels`; nan if the divisor is 0."""

    labels: list[str]
    precision: list[float]
    recall: list[float]
    f1: list[float]
    support: list[int]
    """The number of samples of each class."""
    confusion: list[list[int]] | None
    """The number of samples by [true class][predicted class]; None for label sets."""

    def to_dict(self) -> dict[str, Any]:
        """JSON values with one entry per class; undefined values are None."""
        columns = (self.labels, self.precision, self.recall, self.f1, self.support)
        keys = ("label", "precision", "recall", "f1", "support")
        rows = [dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)]
        defined = [{k: None if v != v else v for k, v in row.items()} for row in rows]
        return {"classes": defined, "confusion": self.confusion}


def classification_report(
    predictions: np.ndarray, references: np.ndarray, label_names: Sequence[str]
) -> ClassReport:
    """The report over class ids [N], or label sets [N, C] of 0 and 1, for C label names."""
    assert predictions.shape == references.shape, "one prediction for each reference"
    confusion = None
    if references.ndim == 2:
        hits = np.sum((predictions == 1) & (references == 1), axis=0)
        predicted, support = np.sum(predictions, axis=0), np.sum(references, axis=0)
    else:
        confusion = _confusion(predictions, references, len(label_names))
        hits = confusion.diagonal()
        predicted, support = confusion.sum(axis=0), confusion.sum(axis=1)
    return ClassReport(
        labels=list(label_names),
        precision=_ratio(hits, predicted),
        recall=_ratio(hits, support),
        f1=_ratio(2 * hits, predicted + support),
        support=[int(n) for n in support],
        confusion=None if confusion is None else confusion.tolist(),
    )


def _confusion(predictions: np.ndarray, references: np.ndarray, num_labels: int) -> np.ndarray:
    pairs = references.astype(np.int64) * num_labels + predictions.astype(np.int64)
    return np.bincount(pairs, minlength=num_labels**2).reshape(num_labels, num_labels)


def _ratio(part: np.ndarray, whole: np.ndarray) -> list[float]:
    return [int(p) / int(w) if w else float("nan") for p, w in zip(part, whole, strict=True)]
