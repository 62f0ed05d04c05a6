"""Evaluation: measures a model once on each sample of a data set, as the recipe defines."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.data.batch import Batch, Samples
from trainer.data.entries import summed_by_sample
from trainer.data.sample_rows import SampleRows
from trainer.devices.ranks import Ranks
from trainer.errors import InputError, NonFiniteSamples
from trainer.metrics.functions import MetricFunctions
from trainer.metrics.metric import Metric
from trainer.models.outputs import Outputs
from trainer.tasks.agreement import check_metrics
from trainer.tasks.columns import Columns
from trainer.tasks.comparison import Comparison
from trainer.tasks.plain_recipes import OwnLoss, PlainRecipe
from trainer.tasks.recipe import Part, Recipe
from trainer.tasks.slices import slices_of
from trainer.training.finiteness import non_finite_samples
from trainer.training.gathering import (
    Gathered,
    check_axes,
    columns_of,
    gathered_batches,
    in_batch_order,
)
from trainer.training.kept_outputs import KeptOutputs, kept_of, kept_of_batch

Sums = tuple[np.ndarray, np.ndarray]
"""[N] each: the loss sum and the count of every sample."""


@dataclass(frozen=True)
class Evaluation:
    """The results of an evaluation of N samples, in the data set's order."""

    metrics: dict[str, float]
    """The loss and every metric; all but the loss are NaN if a sample is not finite."""
    losses: np.ndarray | None
    """[N], each sample's mean loss; None without labels, or if the loss is one sum per batch."""
    predictions: Columns
    """The recipe's predictions."""
    recipe: Recipe
    """The recipe that the metrics used: the given one, or the result of its `settle`."""
    num_samples: int = 0
    """N"""
    non_finite: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    """The indices of the samples whose loss or logits are not finite."""
    comparison: Comparison | None = None
    """The input of the metrics; None if there is none, or if a sample is not finite."""
    kept: KeptOutputs | None = None
    """All outputs and labels, if requested."""


@dataclass(frozen=True)
class Wanted:
    """The results that an evaluation computes in addition to the recipe's predictions."""

    metrics: Mapping[str, Metric] = field(default_factory=dict)
    functions: MetricFunctions = field(default_factory=MetricFunctions)
    keeps: bool = False
    """Whether to keep all outputs and labels."""
    loss: bool = True
    """Whether to compute the loss; False for a plain recipe's predictions, which have no labels."""
    settles: bool = False
    """Whether to call `Recipe.settle`, for example to choose a threshold that will be saved."""


@torch.no_grad()
def evaluate(
    forward: Callable[[Batch], Any],
    recipe: Recipe,
    samples: Samples,
    wanted: Wanted,
    *,
    max_tokens: int,
    ranks: Ranks,
    rows: SampleRows | None = None,
    in_step: bool = False,
    on_progress: Callable[[int, float], None] = lambda done, share: None,
) -> Evaluation:
    """Measure every sample once; the order of summation is the same for any number of ranks.

    `rows` are the rows of the samples, for the recipe's comparison; the other keyword arguments
    are passed to `gathered_batches`.
    """
    gathered, batches = gathered_batches(
        forward,
        lambda outputs, batch: _measure(recipe, outputs, batch, wanted, ranks.widest),
        samples,
        max_tokens=max_tokens,
        group_size=recipe.group_size,
        ranks=ranks,
        in_step=in_step,
        on_progress=on_progress,
        axes=recipe.predicted,
    )
    return _total(gathered, batches, rows or SampleRows(None, len(samples)), wanted, recipe)


def check_finite(evaluations: Mapping[str, Evaluation], context: str = "") -> None:
    """Raise NonFiniteSamples, a NumericsError, if an evaluation has samples that are not finite.

    `evaluations` maps the name of each set to its evaluation; `context` is appended to the message.
    """
    for name, evaluation in evaluations.items():
        if len(evaluation.non_finite):
            where = f"evaluation {name}".rstrip()
            total = evaluation.num_samples
            raise NonFiniteSamples(where, evaluation.non_finite.tolist(), total, context)


def _measure(
    recipe: Recipe, outputs: Outputs, batch: Batch, wanted: Wanted, dtype: torch.dtype
) -> dict[str, Tensor]:
    """A batch's sums, counts and predictions, as flat tensors on the device."""
    predictions = recipe.predictions(outputs, batch)
    where = f"recipe: {type(recipe).__name__}.predictions"
    check_axes(where, predictions, recipe.predicted, batch)
    measured = {f"prediction.{name}": tensor for name, tensor in predictions.items()}
    if recipe.has_loss(batch) and wanted.loss:
        sums, counts = recipe.loss(outputs, batch)
        sums = sums.reshape(-1).to(dtype)
        counts = torch.as_tensor(counts, device=sums.device).reshape(-1).to(dtype)
        measured["sums"] = summed_by_sample(sums, batch)
        measured["counts"] = summed_by_sample(counts, batch)
    if wanted.keeps:
        measured |= kept_of_batch(outputs, batch, recipe, wanted.functions.preprocess)
    measured["non_finite"] = non_finite_samples(outputs, batch, measured, recipe.predicted)
    return measured


def _total(
    gathered: Gathered,
    batches: list[np.ndarray],
    rows: SampleRows,
    wanted: Wanted,
    recipe: Recipe,
) -> Evaluation:
    """Combine all ranks' parts; sums are added in the same order for any number of ranks."""
    columns = columns_of(gathered, batches, len(rows), recipe.predicted, "prediction.")
    flags = columns_of(gathered, batches, len(rows), {"non_finite": "sample"}, "")
    non_finite = np.flatnonzero(flags["non_finite"].values) if flags else np.empty(0, np.int64)
    finite = not len(non_finite)
    found, sums = _loss(gathered, batches, len(rows))
    if found:
        # the results of Recipe.measure are NaN if a sample is not finite
        nothing = dict.fromkeys(recipe.measures, float("nan"))
        found |= recipe.measure(found["loss"], columns) if finite else nothing
    kept = kept_of(gathered, batches, len(rows)) if wanted.keeps else None
    if wanted.settles and finite and columns:
        recipe = recipe.settle(columns, rows)
    comparison = _comparison(recipe, columns, rows, kept, wanted) if finite else None
    found = _compared(comparison, recipe, wanted.metrics, found)
    if kept is not None and finite:
        computed = wanted.functions.measured(kept.prediction(_means(sums)))
        found = _joined(found, computed, "compute_metrics")
    if finite:
        for part in _parts(recipe, columns, rows):
            found |= _of_part(part, wanted.metrics, sums, found)
    if not finite:
        if found and recipe.compares is not None:
            names = [name for metric in wanted.metrics.values() for name in metric.names()]
            found |= dict.fromkeys(names, float("nan"))
        found["non_finite_samples"] = len(non_finite)
    means = _means(sums)
    return Evaluation(found, means, columns, recipe, len(rows), non_finite, comparison, kept)


def _comparison(
    recipe: Recipe,
    columns: Columns,
    rows: SampleRows,
    kept: KeptOutputs | None,
    wanted: Wanted,
) -> Comparison | None:
    """The input of the metrics; for a plain recipe, the outputs and labels."""
    if isinstance(recipe, PlainRecipe):
        shifted = isinstance(recipe, OwnLoss) and recipe.shifted
        return kept.comparison(shifted) if kept is not None and wanted.metrics else None
    return recipe.comparison(columns, rows) if columns else None


def _compared(
    comparison: Comparison | None,
    recipe: Recipe,
    metrics: Mapping[str, Metric],
    found: dict[str, float],
) -> dict[str, float]:
    """`found` with the results of all metrics added, unless `comparison` is None."""
    if comparison is not None:
        check_metrics(recipe, metrics, comparison.kind)
        for key, metric in metrics.items():
            computed = metric.compute(comparison.predictions, comparison.references)
            found = _joined(found, computed, f"metrics.{key}")
    return found


def _joined(found: dict[str, float], more: Mapping[str, float], where: str) -> dict[str, float]:
    """`found` and `more`. Raises InputError, which begins with `where`, for a name in both."""
    if duplicates := more.keys() & found.keys():
        returned = f"'{min(duplicates)}', which the evaluation has already"
        raise InputError(f"{where}: returned {returned}; accepted: another name")
    return {**found, **more}


def _parts(recipe: Recipe, columns: Columns, rows: SampleRows) -> list[Part]:
    """The recipe's parts, each followed by its own recipe's slices, then the recipe's slices."""
    found: list[Part] = []
    for part in recipe.parts(columns, rows):
        found.append(part)
        if part.recipe is not recipe:
            slices = slices_of(part.recipe, part.columns, part.rows)
            found += [_slice_of(part, each) for each in slices]
    return [*found, *slices_of(recipe, columns, rows)]


def _slice_of(part: Part, own: Part) -> Part:
    """Convert `own`, a slice of `part`, to a part of the data set.

    The samples of `own` are indices within `part`.
    """
    losses = part.losses
    if losses is not None:
        losses = losses[0][own.samples], losses[1][own.samples]
    return replace(
        own,
        name=f"{part.name}_{own.name}",
        samples=part.samples[own.samples],
        metrics=part.metrics,
        losses=losses,
    )


def _of_part(
    part: Part, metrics: Mapping[str, Metric], sums: Sums | None, known: Mapping[str, float]
) -> dict[str, float]:
    """The results of a part of the data set; their names start with the part's name.

    Raises InputError if two results have the same name.
    """
    if sums is not None and part.losses is None:
        part = replace(part, losses=(sums[0][part.samples], sums[1][part.samples]))
    found: dict[str, float] = {"samples": len(part.samples)}
    if part.losses is not None:
        total, count = (float(each.sum(dtype=np.float64)) for each in part.losses)
        found["loss"] = total / count if count else float("nan")
        found |= part.recipe.measure(found["loss"], part.columns)
    comparison = part.recipe.comparison(part.columns, part.rows) if part.columns else None
    chosen = metrics if part.metrics is None else part.metrics
    found = _compared(comparison, part.recipe, chosen, found)
    named = {f"{part.name}_{name}": value for name, value in found.items()}
    if duplicates := named.keys() & known.keys():
        raise InputError(
            f"evaluation: two results are named {min(duplicates)}; accepted: other names for the "
            "cells of recipe.slices, or for the tasks"
        )
    return named


def _means(sums: Sums | None) -> np.ndarray | None:
    """[N], the mean loss of each sample."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return None if sums is None else sums[0] / sums[1]


def _loss(
    gathered: Gathered, batches: list[np.ndarray], num_samples: int
) -> tuple[dict[str, float], Sums | None]:
    """The loss, if the samples have labels, and each sample's loss sum and count, if known."""
    sums, counts = in_batch_order(gathered, "sums"), in_batch_order(gathered, "counts")
    if not sums:
        return {}, None
    total = sum(float(part.sum(dtype=np.float64)) for part in sums)
    count = sum(float(part.sum(dtype=np.float64)) for part in counts)
    found = {"loss": total / count if count else float("nan")}
    if sum(map(len, sums)) != num_samples:
        return found, None
    places = np.concatenate(batches)
    by_sample = np.empty(num_samples), np.empty(num_samples)
    for column, parts in zip(by_sample, (sums, counts), strict=True):
        column[places] = np.concatenate(parts)
    return found, by_sample
