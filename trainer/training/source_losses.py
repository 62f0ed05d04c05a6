"""Losses by source: computes the loss of a step for each source of a mixture."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from trainer.data.batch import Batch
from trainer.data.entries import summed_by_sample
from trainer.data.source_batch import SourceBatch
from trainer.tasks.recipe import Recipe


def recipe_of(batch: Batch, recipe: Recipe) -> Recipe:
    """The recipe that computes a batch's loss: the recipe of its sources, or the run's `recipe`."""
    source_recipe = batch.recipe if isinstance(batch, SourceBatch) else None
    return recipe if source_recipe is None else source_recipe


def by_source(sums: Tensor, counts: Tensor, batch: Batch, num_sources: int) -> list[Tensor]:
    """The loss sums and counts of the sources, alternating: [sum, count, sum, count, ...].

    They are zeros if the loss of single samples is unknown, for example if it compares samples
    with each other.
    """
    dtype = torch.float32 if sums.device.type == "mps" else torch.float64
    totals = sums.new_zeros(2 * num_sources, dtype=dtype)
    if not isinstance(batch, SourceBatch):
        return list(totals)
    columns = [summed_by_sample(torch.as_tensor(e).reshape(-1), batch) for e in (sums, counts)]
    if any(len(column) != len(batch.sources) for column in columns):
        return list(totals)
    indices = batch.sources.to(sums.device, non_blocking=True) * 2
    for offset, column in enumerate(columns):
        totals.index_add_(0, indices + offset, column.detach().to(totals))
    return list(totals)


def losses_by_source(sources: Sequence[str], numbers: Sequence[float]) -> Mapping[str, float]:
    """The mean loss of each source that occurs in a step, under names such as "news_loss"."""
    sums = zip(sources, numbers[::2], numbers[1::2], strict=True)
    return {f"{name}_loss": total / count for name, total, count in sums if count}
