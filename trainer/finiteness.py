"""Finiteness: which samples of an evaluation have a loss, logits or predictions that are not."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainer.data.batch import Batch, FlatBatch
from trainer.errors import NonFiniteSamples
from trainer.models.projection import Projection

if TYPE_CHECKING:
    from trainer.evaluation import Evaluation


def non_finite_samples(outputs: Any, batch: Batch, measured: Mapping[str, Tensor]) -> Tensor:
    """[N] bool, on the batch's device: which samples have numbers that are not finite.

    Looks at the model's logits (and at the hidden states from which a causal language model makes
    them), at the sums of the loss and at the floating-point predictions in `measured`. A number
    that belongs to the whole batch marks all its samples.
    """
    columns = {name: column for name, column in measured.items() if _is_computed(name)}
    tensors = [*_logits(outputs), *columns.values()]
    device = next((tensor.device for tensor in tensors), torch.device("cpu"))
    found = torch.zeros(len(batch.sample_ids), dtype=torch.bool, device=device)
    for tensor in tensors:
        if tensor.is_floating_point():
            found |= _by_sample(_bad_entries(tensor), batch)
    return found


def check_finite(evaluations: "Mapping[str, Evaluation]", context: str = "") -> None:
    """Raise NonFiniteSamples, a NumericsError, where an evaluation has samples that are not finite.

    `evaluations` come by the name of their set; `context` ends the message.
    """
    for name, evaluation in evaluations.items():
        if len(evaluation.non_finite):
            where = f"evaluation {name}".rstrip()
            total = evaluation.num_samples
            raise NonFiniteSamples(where, evaluation.non_finite.tolist(), total, context)


def _is_computed(name: str) -> bool:
    return name == "sums" or (name.startswith("prediction.") and not name.endswith(".references"))


def _logits(outputs: Any) -> Iterator[Tensor]:
    """The fields of a model's outputs that are called logits; of a plain module there are none."""
    if isinstance(outputs, (Tensor, tuple, list)) or not hasattr(outputs, "items"):
        return
    if isinstance(projection := getattr(outputs, "projection", None), Projection):
        yield projection.hidden  # to read the logits would compute them
        return
    for name, value in outputs.items():
        if str(name).endswith("logits") and isinstance(value, Tensor):
            yield value


def _bad_entries(tensor: Tensor) -> Tensor:
    """[first axis] bool, whether an entry holds a number that is not finite; in one pass."""
    if tensor.ndim < 2:
        return ~torch.isfinite(tensor.reshape(-1))
    return ~torch.isfinite(torch.linalg.vector_norm(tensor.flatten(1), float("inf"), dim=1))


def _by_sample(bad: Tensor, batch: Batch) -> Tensor:
    """Entries of tokens, sequences or samples as the samples that they belong to: [N] bool."""
    number = len(batch.sample_ids)
    if len(bad) == number:
        return bad
    if isinstance(batch, FlatBatch):
        samples = batch.sequence_sample.to(bad.device, non_blocking=True)
        if len(bad) == batch.num_tokens:
            lengths = batch.sequence_lengths.to(bad.device, non_blocking=True)
            samples = samples.repeat_interleave(lengths, output_size=len(bad))
        if len(bad) == len(samples):
            counts = torch.zeros(number, dtype=torch.long, device=bad.device)
            return counts.index_add_(0, samples, bad.long()) > 0
    return bad.any().expand(number)
