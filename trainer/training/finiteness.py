"""Finiteness: finds evaluated samples whose loss, logits or predictions are not finite.

N is the number of samples.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from trainer.data.batch import Batch, FlatBatch
from trainer.data.entries import owners
from trainer.data.task_batch import TaskBatch
from trainer.models.heads.projection import Projection
from trainer.models.outputs import Outputs
from trainer.tasks.recipe import Axis


def non_finite_samples(
    outputs: Outputs,
    batch: Batch,
    measured: Mapping[str, Tensor],
    axes: Mapping[str, Axis] | None = None,
) -> Tensor:
    """[N] bool, on the batch's device: which samples have numbers that are not finite.

    Checks the model's logits (for a causal language model, the hidden states from which they are
    computed), the sums of the loss and the floating-point predictions in `measured`. A value for
    the whole batch marks all its samples. `axes` are the recipe's `predicted`.
    """
    computed = {name: tensor for name, tensor in measured.items() if _is_computed(name)}
    named = [*((None, tensor) for tensor in _logits(outputs)), *computed.items()]
    device = next((tensor.device for _, tensor in named), torch.device("cpu"))
    found = torch.zeros(len(batch.sample_ids), dtype=torch.bool, device=device)
    for name, tensor in named:
        if tensor.is_floating_point():
            axis = (axes or {}).get(str(name).removeprefix("prediction."))
            found |= _by_sample(_bad_entries(tensor), batch, axis)
    if isinstance(batch, TaskBatch):
        for task, part in batch.parts.items():
            of_task = non_finite_samples(outputs.tasks[task], part, {})
            found[batch.members[task]] |= of_task.to(device)
    return found


def _is_computed(name: str) -> bool:
    return name == "sums" or (name.startswith("prediction.") and not name.endswith(".references"))


def _logits(outputs: Outputs) -> Iterator[Tensor]:
    """The output fields whose names end in logits; none if a plain module's outputs are unnamed."""
    if isinstance(outputs, (Tensor, tuple, list)) or not hasattr(outputs, "items"):
        return
    if isinstance(projection := getattr(outputs, "projection", None), Projection):
        yield projection.hidden  # reading `logits` would compute all of them
        return
    for name, value in outputs.items():
        if str(name).endswith("logits") and isinstance(value, Tensor):
            yield value


def _bad_entries(tensor: Tensor) -> Tensor:
    """[N] bool for a tensor [N, ...]: whether each entry has a number that is not finite."""
    if tensor.ndim < 2:
        return ~torch.isfinite(tensor.reshape(-1))
    return ~torch.isfinite(torch.linalg.vector_norm(tensor.flatten(1), float("inf"), dim=1))


def _by_sample(bad: Tensor, batch: Batch, axis: str | None) -> Tensor:
    """[N] bool: whether each sample has a bad entry.

    A bad entry that cannot be assigned to a sample marks all samples.
    """
    number = len(batch.sample_ids)
    found = None
    if axis is not None and isinstance(batch, FlatBatch):
        found = batch.owners_along(axis)
    if found is None and len(bad) == number:
        return bad
    found = owners(batch, len(bad), bad.device) if found is None else found
    if found is None:
        return bad.any().expand(number)
    counts = torch.zeros(number, dtype=torch.long, device=bad.device)
    return counts.index_add_(0, found, bad.long()) > 0
