"""Label predictions: converts logits to labels or numbers, and labels to answers for the user."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.data.batch import Samples
    from trainer.tasks.columns import Columns


def label_predictions(problem: str, logits: "Tensor") -> dict[str, "Tensor"]:
    """Predictions and, except for regression, probabilities of N samples from logits [N, C].

    Predictions are class ids [N], flags [N, C] (1 for labels with a probability above 0.5), or
    numbers [N].
    """
    logits = logits.float()
    if problem == "regression":
        return {"predictions": logits.squeeze(-1)}
    if problem == "multi_label":
        probabilities = logits.sigmoid()
        return {"predictions": (probabilities > 0.5).long(), "probabilities": probabilities}
    return {"predictions": logits.argmax(-1), "probabilities": logits.softmax(-1)}


def label_answers(
    problem: str, labels: Sequence[str] | None, columns: "Columns"
) -> list[dict[str, Any]]:
    """Each sample's label, labels or value, with scores and, if known, the reference."""
    found = [_named(problem, labels, value) for value in columns["predictions"].tolist()]
    if "probabilities" in columns:
        for answer, row in zip(found, columns["probabilities"].tolist(), strict=True):
            if problem == "single_label":
                answer["score"] = max(row)
            answer["probabilities"] = dict(zip(labels or (), row, strict=True))
    if "references" in columns:
        for answer, value in zip(found, columns["references"].tolist(), strict=True):
            if problem != "single_label" or value >= 0:  # rows of ids may have no label: -100
                answer["reference"] = next(iter(_named(problem, labels, value).values()))
    return found


def class_counts(problem: str, labels: Sequence[str] | None, samples: "Samples") -> dict[str, int]:
    """Label -> the number of samples (or tokens) with it; empty if labels are not known.

    Negative ids mean that there is no label.
    """
    import numpy as np

    found: np.ndarray | None = getattr(samples, "fields", {}).get("labels")
    if found is None or labels is None:
        return {}
    multi = problem == "multi_label"
    counts = found.sum(0) if multi else np.bincount(found[found >= 0], minlength=len(labels))
    return {name: int(n) for name, n in zip(labels, counts, strict=True)}


def _named(problem: str, labels: Sequence[str] | None, value: Any) -> dict[str, Any]:
    """A prediction or reference for the user: a number, a label, or a list of labels."""
    if problem == "regression":
        return {"value": value}
    assert labels is not None
    if problem == "multi_label":
        return {"labels": [name for name, yes in zip(labels, value, strict=True) if yes]}
    return {"label": labels[value]}
