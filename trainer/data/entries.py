"""Entries: finds the sample that each token, sequence or other entry of a batch belongs to."""

import numpy as np
import torch
from torch import Tensor

from trainer.data.batch import Batch, FlatBatch


def entries_per_sample(batch: Batch) -> dict[str, np.ndarray]:
    """Axis -> [N], the number of entries of each of N samples.

    Contains all axes of a flat batch (which must be on the CPU); for other batches only "sample".
    """
    found = {"sample": np.ones(len(batch.sample_ids), dtype=np.int64)}
    if isinstance(batch, FlatBatch):
        owners, lengths = batch.sequence_sample.numpy(), batch.sequence_lengths.numpy()
        number = batch.num_samples
        found["sequence"] = np.bincount(owners, minlength=number).astype(np.int64)
        tokens = np.zeros(number, dtype=np.int64)
        np.add.at(tokens, owners, lengths)
        found["token"] = tokens
        found |= batch.more_entries()
    return found


def owners(batch: Batch, size: int, device: torch.device) -> Tensor | None:
    """The sample of each of `size` entries, [size], as indices from 0 to N-1.

    None if no axis has this size. The size determines the axis. Every sample has at least one
    sequence, and every sequence at least one token, so entries of axes of equal size belong to the
    same samples.
    """
    number = len(batch.sample_ids)
    if size == number:
        return torch.arange(number, device=device)
    if not isinstance(batch, FlatBatch):
        return None
    found = batch.sequence_sample.to(device, non_blocking=True)
    if size == len(found):
        return found
    if size == batch.num_tokens:
        lengths = batch.sequence_lengths.to(device, non_blocking=True)
        return found.repeat_interleave(lengths, output_size=size)
    return None


def summed_by_sample(tensor: Tensor, batch: Batch) -> Tensor:
    """The sums of a flat tensor's entries over each sample, [N].

    Returns the tensor unchanged if no axis of the batch has its length.
    """
    if len(tensor) == len(batch.sample_ids):
        return tensor
    found = owners(batch, len(tensor), tensor.device)
    if found is None:
        return tensor
    return tensor.new_zeros(len(batch.sample_ids)).index_add_(0, found, tensor)
