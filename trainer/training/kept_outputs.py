"""Kept outputs: all outputs and labels, for metrics and for the predictions of plain modules.

They are kept only if requested, since they take memory for every sample.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.data.batch import Batch, FlatBatch
from trainer.errors import InputError
from trainer.metrics.functions import EvalPrediction, Preprocess
from trainer.models.outputs import Outputs
from trainer.tasks.columns import Column
from trainer.tasks.comparison import Comparison
from trainer.tasks.plain_recipes import LABELS, SPANS
from trainer.tasks.recipe import Recipe
from trainer.training.gathering import Gathered, columns_of

PAD = -100
"""The padding of rows of different lengths, as in transformers."""
OUTPUT, LABEL = "output", "label"
NOT_KEPT = ("loss", "past_key_values", "mems", "hidden_states", "attentions")
"""Names of outputs that are not predictions."""


@dataclass(frozen=True)
class KeptOutputs:
    """Outputs and labels of N samples by name, [N, ...] each, padded with -100 to equal lengths."""

    outputs: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]

    def prediction(self, losses: np.ndarray | None) -> EvalPrediction:
        """The argument of `compute_metrics`."""
        labels = _one_or_tuple(list(self.labels.values())) if self.labels else None
        return EvalPrediction(_one_or_tuple(list(self.outputs.values())), labels, losses=losses)

    def comparison(self, shifted: bool = False) -> Comparison | None:
        """The first output paired with the labels; None if there are no outputs or no labels.

        Integer labels are classes. If the output has one more axis than the labels, it holds
        scores, and their argmax is compared. Entries with the label -100 are left out. With
        `shifted`, an entry predicts the label of the entry after it.
        """
        if not self.labels or not self.outputs:
            return None
        found, wanted = next(iter(self.outputs.values())), next(iter(self.labels.values()))
        if wanted.dtype.kind not in "biu":
            return Comparison("numbers", _without_last_axis(found), _without_last_axis(wanted))
        if found.ndim == wanted.ndim + 1:
            found = found.argmax(-1)
        if found.shape != wanted.shape:
            shapes = f"{list(found.shape)} and labels of {list(wanted.shape)}"
            raise InputError(f"metrics: outputs of shape {shapes}; accepted: compute_metrics")
        if found.dtype.kind == "f":
            return Comparison(
                "numbers", _without_last_axis(found), _without_last_axis(wanted).astype(np.float64)
            )
        if shifted and wanted.ndim > 1:
            found, wanted = found[:, :-1], wanted[:, 1:]
        counted = wanted != PAD
        return Comparison("classes", found[counted], wanted[counted])


def kept_of_batch(
    outputs: Outputs, batch: Batch, recipe: Recipe, preprocess: Preprocess | None
) -> dict[str, Tensor]:
    """A batch's outputs and labels as flat tensors, with the number of entries per sample."""
    found, labels = _outputs(outputs), _labels(batch, recipe)
    if preprocess is not None:
        processed = preprocess(
            _one_or_tuple(list(found.values())), _one_or_tuple(list(labels.values()))
        )
        several = isinstance(processed, (tuple, list))
        results = list(processed) if several else [processed]
        names = (
            [*found][: len(results)]
            if len(results) <= len(found)
            else map(str, range(len(results)))
        )
        found = dict(zip(names, results, strict=True))
    measured: dict[str, Tensor] = {}
    for kind, tensors in ((OUTPUT, found), (LABEL, labels)):
        for name, tensor in tensors.items():
            measured |= _measured(kind, name, tensor, batch)
    return measured


def kept_of(gathered: Gathered, batches: list[np.ndarray], num_samples: int) -> KeptOutputs:
    """The outputs and labels of all ranks, in the data set's order."""
    present = dict.fromkeys(name for rank in gathered for name in rank)
    found: dict[str, dict[str, np.ndarray]] = {OUTPUT: {}, LABEL: {}}
    for measured in present:
        kind, _, rest = measured.partition(".")
        axis, _, name = rest.partition(".")
        if kind in found:
            axes = {rest: measured if axis == "parts" else axis}
            column = columns_of(gathered, batches, num_samples, axes, f"{kind}.")[rest]
            found[kind][name] = _padded(column)
    return KeptOutputs(found[OUTPUT], found[LABEL])


def _measured(kind: str, name: str, tensor: Tensor, batch: Batch) -> dict[str, Tensor]:
    """The tensor as a sequence of entries, under a key that contains the axis of the entries.

    The axis is sample, sequence or token. If each row of a plain batch has several entries, the key
    contains "parts" instead, and a second tensor holds the number of entries of each row.
    """
    number = len(batch.sample_ids)
    size = len(tensor) if tensor.ndim else 0
    if isinstance(batch, FlatBatch):
        lengths = {"sample": number, "sequence": len(batch.sequence_lengths)}
        axes = lengths | {"token": batch.num_tokens}
        if (axis := next((axis for axis in axes if axes[axis] == size), None)) is None:
            accepted = "accepted: one entry for each token, sequence or sample"
            raise InputError(f"metrics: {kind} '{name}' has {size} entries; {accepted}")
        return {f"{kind}.{axis}.{name}": tensor}
    if size != number:
        found = f"{kind} '{name}' of shape {list(tensor.shape)}"
        accepted = (
            f"a row for each of {number} samples; preprocess_logits_for_metrics can change shapes"
        )
        raise InputError(f"metrics: {found}; accepted: {accepted}")
    if tensor.ndim == 1:
        return {f"{kind}.sample.{name}": tensor}
    counts = torch.full((number,), tensor.shape[1], dtype=torch.long)
    parts = {f"{kind}.parts.{name}": tensor.flatten(0, 1)}
    return parts | {f"entries.{kind}.parts.{name}": counts}


def _outputs(outputs: Outputs) -> dict[str, Tensor]:
    """A model's predictions by name, without its loss."""
    if isinstance(outputs, Tensor):
        return {"outputs": outputs}
    if isinstance(outputs, (tuple, list)):
        pairs: Iterator[tuple[str, Any]] = ((str(n), value) for n, value in enumerate(outputs))
        # a scalar as the first output is the loss
        found = {n: v for n, v in pairs if isinstance(v, Tensor) and v.ndim}
        return found if len(found) != 1 else {"outputs": next(iter(found.values()))}
    if not hasattr(outputs, "keys"):
        shown = type(outputs).__name__
        raise InputError(f"metrics: the model returned {shown}; accepted: tensors, named or not")
    names = [name for name in outputs.keys() if name not in NOT_KEPT]  # noqa: SIM118
    return {n: outputs[n] for n in names if isinstance(outputs[n], Tensor) and outputs[n].ndim}


def _labels(batch: Batch, recipe: Recipe) -> dict[str, Tensor]:
    for names in (LABELS[:1], LABELS[1:2], LABELS[2:], SPANS, recipe.answer_fields):
        if names and all(name in batch for name in names):
            return {name: batch[name] for name in names}
    return {}


def _padded(column: Column) -> np.ndarray:
    """The column as an array [N, ...], with shorter rows padded with -100."""
    if column.offsets is None:
        return column.values
    lengths = np.diff(column.offsets)
    longest = int(lengths.max(initial=0))
    shape = (len(lengths), longest, *column.values.shape[1:])
    if (lengths == longest).all():
        return column.values.reshape(shape)
    filled = np.full(shape, PAD, column.values.dtype)
    filled[np.arange(longest) < lengths[:, None]] = column.values
    return filled


def _one_or_tuple(values: Sequence[Any]) -> object:
    return values[0] if len(values) == 1 else tuple(values)


def _without_last_axis(array: np.ndarray) -> np.ndarray:
    """[N, 1] -> [N]; arrays of other shapes unchanged."""
    one = array.ndim == 2 and array.shape[1] == 1
    return array[:, 0] if one else array
