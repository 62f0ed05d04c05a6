"""Completions: log-probabilities by sequence, and their sums by sample and role.

Dimensions: N samples, S sequences, T tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.data.batch import FlatBatch, OwnBatch
from trainer.models.blocks.cross_entropy import IGNORED
from trainer.models.outputs import Outputs
from trainer.tasks.log_probs import sequence_log_probs


@dataclass(frozen=True)
class Completions:
    """A causal language model's log-probabilities of the labeled tokens of S sequences."""

    batch: FlatBatch
    log_probs: Tensor
    """[S], summed over the labeled tokens of each sequence."""
    tokens: Tensor
    """[S], the number of labeled tokens of each sequence."""

    @classmethod
    def of(cls, outputs: Outputs, batch: OwnBatch, labels: Tensor | None = None) -> "Completions":
        """The completions of a flat batch, for its field `labels` or for other `labels` [T].

        Those for the field `labels` are computed once and cached in the outputs.
        """
        assert isinstance(batch, FlatBatch)
        is_cached = labels is None
        kept = vars(outputs).get("completions") if is_cached else None
        if isinstance(kept, Completions) and kept.batch is batch:
            return kept
        labels = batch["labels"] if labels is None else labels
        host_labels = batch.on_host.get("labels") if is_cached else None
        projection, lengths = outputs.projection, batch.sequence_lengths
        found = sequence_log_probs(projection, labels, lengths, host_labels=host_labels)
        labelled = projection.next_tokens(labels.long(), IGNORED) != IGNORED
        sequence = torch.arange(len(lengths)).repeat_interleave(lengths)
        sequence = sequence.to(found.device, non_blocking=True)
        tokens = found.new_zeros(len(lengths)).index_add(0, sequence, labelled.to(found))
        completions = cls(batch, found, tokens)
        if is_cached:
            outputs.completions = completions
        return completions

    def summed(self, role: str, values: Tensor | None = None) -> Tensor:
        """[N], the sum of log_probs, or of values [S], over each sample's sequences with a role."""
        values = self.log_probs if values is None else values
        sequences = self.batch.of_role(role)
        owners = self.batch.sequence_sample.to(values.device)[sequences]
        return values.new_zeros(self.batch.num_samples).index_add(0, owners, values[sequences])

    def log_ratios(self, role: str) -> Tensor:
        """[N], `log_probs` minus those of the reference model, summed over a role's sequences."""
        return self.summed(role, self.log_probs - self.batch["reference"])

    def mean(self, role: str) -> Tensor:
        """[N], each sample's mean log-probability per token of a role; -1 if it has no token."""
        tokens = self.summed(role, self.tokens)
        found = self.summed(role) / tokens.clamp(min=1)
        return torch.where(tokens > 0, found, -1.0)


def summed_over_tokens(values: Tensor, batch: OwnBatch) -> Tensor:
    """[N], the sums of values [T] over the tokens of each sample of a flat batch."""
    assert isinstance(batch, FlatBatch)
    lengths = batch.sequence_lengths.to(values.device, non_blocking=True)
    owners = batch.sequence_sample.to(values.device)
    owners = owners.repeat_interleave(lengths, output_size=len(values))
    return values.new_zeros(batch.num_samples).index_add(0, owners, values)
