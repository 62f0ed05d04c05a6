"""Evaluation: a recipe over a data set, to a dict of floats."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.data.batch import Batch, Samples
from trainer.data.plan import evaluation_batches
from trainer.finiteness import non_finite_samples
from trainer.metrics.metric import Metric
from trainer.ranks import Ranks
from trainer.recipe import Recipe


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found. N samples, in the data set's order."""

    metrics: dict[str, float]
    """The loss and every metric; all NaN but the loss where a sample is not finite."""
    losses: np.ndarray | None
    """[N], each sample's mean loss; None where the recipe gives one sum for a whole batch."""
    predictions: dict[str, np.ndarray]
    """What the recipe predicted, [N, ...] each."""
    num_samples: int = 0
    """N"""
    non_finite: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    """The numbers of the samples whose loss or logits are not finite."""


@torch.no_grad()
def evaluate(
    forward: Callable[[Batch], Any],
    recipe: Recipe,
    samples: Samples,
    metrics: Mapping[str, Metric],
    *,
    max_tokens: int,
    ranks: Ranks,
    in_step: bool = False,
    told: Callable[[int, float], None] = lambda done, share: None,
) -> Evaluation:
    """Every sample once, whatever the number of ranks: sums and counts, added in batch order.

    The batches depend on the data set and the token budget alone; whole ones are dealt to ranks.
    `forward` takes a batch that is on its device. With `in_step`, which a sharded model needs, all
    ranks call it equally often: who has fewer batches runs placeholders. `told` hears how many
    samples are done, and the share of all tokens, by this rank's count of batches and without
    waiting for the device.
    """
    batches = evaluation_batches(samples.lengths, max_tokens)
    mine = range(ranks.rank, len(batches), ranks.world_size)
    parts = []
    done = np.cumsum([0, *map(len, batches)])
    tokens = np.cumsum([0, *(samples.lengths[batch].sum() for batch in batches)])
    told(0, 0.0)
    for number in mine:
        batch = samples.collate(batches[number]).to(ranks.device)
        outputs = forward(batch)
        parts.append(_measure(recipe, outputs, batch, ranks.widest))
        past = min(number + ranks.world_size, len(batches))
        told(int(done[past]), tokens[past] / max(tokens[-1], 1))
    if in_step and len(mine) < -(-len(batches) // ranks.world_size):
        forward(samples.placeholder().to(ranks.device))
    gathered = ranks.gather_arrays(_joined(parts, list(mine)))
    return _total(gathered, batches, len(samples), metrics, recipe)


def _measure(recipe: Recipe, outputs: Any, batch: Batch, dtype: torch.dtype) -> dict[str, Tensor]:
    """A batch's sums, counts and predictions, as flat tensors that stay on the device."""
    measured = {f"prediction.{k}": v for k, v in recipe.predictions(outputs, batch).items()}
    if recipe.has_loss(batch):
        sums, counts = recipe.loss(outputs, batch)
        measured["sums"] = sums.reshape(-1).to(dtype)
        counts = torch.as_tensor(counts, device=sums.device)
        measured["counts"] = counts.reshape(-1).to(dtype)
    measured["non_finite"] = non_finite_samples(outputs, batch, measured)
    return measured


def _joined(parts: list[dict[str, Tensor]], numbers: list[int]) -> dict[str, np.ndarray]:
    """One rank's parts end to end, with what is needed to take them apart again."""
    names = list(parts[0]) if parts else []
    # joined in host memory: on the device there may be no room for a second copy
    joined = {name: torch.cat([part[name].cpu() for part in parts]).numpy() for name in names}
    joined["batch"] = np.asarray(numbers, dtype=np.int64)
    if parts and "sums" in parts[0]:
        joined["sizes"] = np.asarray([len(part["sums"]) for part in parts], dtype=np.int64)
    return joined


def _total(
    gathered: list[dict[str, np.ndarray]],
    batches: list[np.ndarray],
    num_samples: int,
    metrics: Mapping[str, Metric],
    recipe: Recipe,
) -> Evaluation:
    """All ranks' parts as one evaluation, added up in an order that no rank count changes."""
    predictions = _in_dataset_order(gathered, batches, num_samples, "prediction.")
    flags = _in_dataset_order(gathered, batches, num_samples, "non_finite")
    non_finite = np.flatnonzero(flags.get("", []))
    found: dict[str, float] = {}
    losses = None
    sums, counts = _in_batch_order(gathered, "sums"), _in_batch_order(gathered, "counts")
    if sums:
        total = sum(float(part.sum(dtype=np.float64)) for part in sums)
        count = sum(float(part.sum(dtype=np.float64)) for part in counts)
        found["loss"] = total / count if count else float("nan")
        found |= _measures(recipe, found["loss"], predictions, len(non_finite))
        if sum(map(len, sums)) == num_samples:
            order = np.concatenate(batches)
            losses = np.empty(num_samples)
            with np.errstate(invalid="ignore"):
                losses[order] = np.concatenate(sums) / np.concatenate(counts)
    if "references" in predictions:
        for metric in metrics.values():
            if len(non_finite):
                found |= dict.fromkeys(metric.names(), float("nan"))
            else:
                found |= metric.compute(predictions["predictions"], predictions["references"])
    if len(non_finite):
        found["non_finite_samples"] = len(non_finite)
    return Evaluation(found, losses, predictions, num_samples, non_finite)


def _measures(
    recipe: Recipe, loss: float, predictions: dict[str, np.ndarray], num_non_finite: int
) -> dict[str, float]:
    """The recipe's own figures; none of them is a number where a sample is not finite."""
    if num_non_finite:
        return dict.fromkeys(recipe.measures, float("nan"))
    return recipe.measure(loss, predictions)


def _in_batch_order(gathered: list[dict[str, np.ndarray]], name: str) -> list[np.ndarray]:
    """A quantity's parts, one a batch, by the batch's number."""
    parts: dict[int, np.ndarray] = {}
    for rank in gathered:
        if name in rank:
            cuts = np.cumsum(rank["sizes"])[:-1]
            parts |= dict(zip(rank["batch"].tolist(), np.split(rank[name], cuts), strict=True))
    return [parts[number] for number in sorted(parts)]


def _in_dataset_order(
    gathered: list[dict[str, np.ndarray]],
    batches: list[np.ndarray],
    num_samples: int,
    prefix: str,
) -> dict[str, np.ndarray]:
    """What begins with `prefix`, of every sample, at its place in the data set."""
    predictions: dict[str, np.ndarray] = {}
    for rank in gathered:
        where = [batches[number] for number in rank["batch"].tolist()]
        for name, values in rank.items():
            if name.startswith(prefix):
                shape = (num_samples, *values.shape[1:])
                whole = predictions.setdefault(
                    name.removeprefix(prefix), np.empty(shape, values.dtype)
                )
                whole[np.concatenate(where)] = values
    return predictions
