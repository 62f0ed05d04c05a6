"""Gradient caching: computes a loss over many embedding vectors, a part of them at a time.

Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup": the
vectors are computed in parts without gradients, the loss gives the gradient of each vector, and
each part runs through the model again with a backward pass. Only one part's activations are in
memory at a time. Dropout masks are functions of sample and token, so both passes compute the same
vectors.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.data.batch import Batch, FlatBatch
from trainer.models.heads.sentence_embedding import SentenceEmbeddingOutput

Run = Callable[[dict[str, Any]], Any]
"""A function that calls the model with the given inputs and returns its outputs."""


class CachedVectors:
    """The vectors of a batch, and the parts of the batch from which they are computed."""

    def __init__(self, parts: Sequence[dict[str, Any]], run: Run) -> None:
        """Compute the vectors of all parts; `run` returns outputs with `embeddings`."""
        self.parts = parts
        with torch.no_grad():
            self.vectors = [run(part).embeddings for part in parts]
        self.joined: Tensor = torch.cat(self.vectors).requires_grad_()

    @property
    def outputs(self) -> SentenceEmbeddingOutput:
        """The outputs for the loss, whose backward pass ends at the vectors."""
        return SentenceEmbeddingOutput(embeddings=self.joined)

    def gradients(self) -> Sequence[Tensor]:
        """The gradient of each part's vectors, after the backward pass of the loss."""
        assert self.joined.grad is not None
        by_part: tuple[Tensor, ...] = torch.split(self.joined.grad, list(map(len, self.vectors)))
        return by_part


def parts_of(batch: Batch, size: int) -> list[dict[str, Any]]:
    """The inputs of a flat batch, split into parts of `size` sequences.

    Returns an empty list if one pass is enough. A `size` of 0 means one pass over all sequences.
    """
    if not size or not isinstance(batch, FlatBatch):
        return []
    number = len(batch.sequence_lengths)
    starts = range(0, number, size)
    return [batch.inputs_of(start, start + size) for start in starts] if number > size else []
