"""Doubled batches: contain each sequence twice, so that each sample gets two dropout masks."""

from dataclasses import replace

import torch
from torch import Tensor

from trainer.data.batch import FlatBatch


def doubled(batch: FlatBatch) -> FlatBatch:
    """A flat batch with a copy of each sequence directly after it, in the same sample.

    `FlatBatch.for_step` treats a sequence and its copy as different sequences, so that their
    dropout masks differ. All fields must have one entry per sample.
    """
    lengths = batch.sequence_lengths
    ends = lengths.cumsum(0).tolist()
    starts = [end - length for end, length in zip(ends, lengths.tolist(), strict=True)]
    rows = torch.cat(
        [torch.arange(start, end).repeat(2) for start, end in zip(starts, ends, strict=True)]
    )

    def twice(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.repeat_interleave(2)

    return replace(
        batch,
        input_ids=batch.input_ids[rows],
        position_ids=batch.position_ids[rows],
        token_type_ids=None if batch.token_type_ids is None else batch.token_type_ids[rows],
        sequence_lengths=lengths.repeat_interleave(2),
        sequence_sample=batch.sequence_sample.repeat_interleave(2),
        roles=twice(batch.roles),
    )
