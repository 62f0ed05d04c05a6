"""Task batches: losses and predictions of a batch of several tasks, from each task's recipe."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainer.data.entries import summed_by_sample
from trainer.data.task_batch import TaskBatch
from trainer.models.outputs import Outputs
from trainer.tasks.recipe import Recipe

if TYPE_CHECKING:
    from trainer.data.batch import Batch, FlatBatch
    from trainer.data.task_samples import CountsOf
    from trainer.data.tokens import TokenTable


def counts_by(
    recipes: Mapping[str, Recipe], tables: "Mapping[str, TokenTable]"
) -> "CountsOf | None":
    """The count of each task's loss; None if the rows of a task have no answers."""
    if not all(recipes[name].has_loss(table.placeholder()) for name, table in tables.items()):
        return None

    def counts(name: str, batch: "FlatBatch") -> Tensor:
        found = recipes[name].counts(batch)
        assert found is not None, "refused by TaskSet"
        return found

    return counts


def weighted_losses(
    recipes: Mapping[str, Recipe], outputs: Outputs, batch: "Batch", label_smoothing: float
) -> tuple[Tensor, Tensor]:
    """Sums and counts of N samples whose quotient is the sum of weight * (task's sum / its count).

    The counts are those of the global batch; `batch.scales` holds their inverses.
    """
    assert isinstance(batch, TaskBatch)
    sums = outputs.unused.new_zeros(batch.num_samples)
    sums = sums.to(torch.promote_types(sums.dtype, torch.float32))
    for name, part in batch.parts.items():
        task_sums, _ = _loss(recipes[name], outputs.tasks[name], part, label_smoothing)
        scaled = task_sums.to(sums) * batch.scales[name]
        sums = sums.index_add(0, batch.members[name], scaled)
    return sums + outputs.unused, torch.ones_like(sums)


def predictions_of(
    recipes: Mapping[str, Recipe], outputs: Outputs, batch: "Batch"
) -> dict[str, Tensor]:
    """The predictions of every task under "<task>.<name>", and the task of each sample.

    If the batch has answers, they include the loss sum and the count of each sample.
    """
    assert isinstance(batch, TaskBatch)
    found = {"task": batch["task"]}
    for name, part in batch.parts.items():
        recipe, task_outputs = recipes[name], outputs.tasks[name]
        columns = recipe.predictions(task_outputs, part)
        if recipe.has_loss(part):
            sums, counts = _loss(recipe, task_outputs, part, 0.0)
            columns = {**columns, "loss_sums": sums, "loss_counts": counts}
        found |= {f"{name}.{column}": tensor for column, tensor in columns.items()}
    return found


def _loss(
    recipe: Recipe, outputs: Outputs, part: "FlatBatch", label_smoothing: float
) -> tuple[Tensor, Tensor]:
    """The loss sum and the count of each of the part's samples."""
    smoothing = label_smoothing if recipe.has_classes else 0.0
    sums, counts = recipe.loss(outputs, part, label_smoothing=smoothing)
    return summed_by_sample(sums, part), summed_by_sample(counts, part)
