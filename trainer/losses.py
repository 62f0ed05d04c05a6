"""Losses as (sum, count): whoever divides does it once, over everything that a step has seen."""

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.models.packing import Layout

IGNORED = -100
"""The label of what is not trained on, as everywhere in the field."""


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of logits [B, C] and labels [B]: (sums [B], counts [B]), in at least fp32.

    The sum over sums divided by the sum over counts is `torch.nn.functional.cross_entropy` with
    the same smoothing and weights and its mean reduction; ignored labels (-100) count nothing.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    supervised = labels != IGNORED
    sums = F.cross_entropy(
        logits,
        labels,
        weight=None if class_weights is None else class_weights.to(logits),
        ignore_index=IGNORED,
        label_smoothing=label_smoothing,
        reduction="none",
    )
    if class_weights is None:
        return sums, supervised.to(logits.dtype)
    counts = class_weights.to(logits)[labels.clamp(min=0)] * supervised
    return sums, counts


def grouped_cross_entropy(
    scores: Tensor, group_lengths: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Cross-entropy whose classes are the members of a group: the tokens of a sequence, say.

    scores [T] lie group after group, group_lengths [B] (on the CPU) say how many are of each, and
    labels [B] the right one's place in its group: (sums [B], counts [B]), as `cross_entropy`.
    """
    layout = Layout(group_lengths, scores.device)
    grid = layout.to_grid(scores)
    if layout.visible_keys is not None:
        grid = grid.masked_fill(~layout.visible_keys.view(grid.shape), -torch.inf)
    return cross_entropy(grid, labels)


def binary_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Independent yes/no cross-entropies of logits [B, C] and labels [B, C]: sums [B], counts [B].

    `class_weights` [C] weigh each class's column, as the `weight` of
    `binary_cross_entropy_with_logits` does; each sample counts C entries.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    targets = labels.to(logits.dtype) * (1 - label_smoothing) + label_smoothing / 2
    losses = F.binary_cross_entropy_with_logits(
        logits,
        targets,
        weight=None if class_weights is None else class_weights.to(logits),
        reduction="none",
    )
    return losses.sum(-1), torch.full_like(losses[:, 0], losses.shape[1])


def mean_squared_error(predictions: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Squared errors of predictions and labels, both [B] or [B, C]: sums [B], counts [B]."""
    predictions = predictions if predictions.dtype == torch.float64 else predictions.float()
    errors = (predictions - labels.to(predictions.dtype)).square().reshape(len(predictions), -1)
    return errors.sum(-1), torch.full_like(errors[:, 0], errors.shape[1])
