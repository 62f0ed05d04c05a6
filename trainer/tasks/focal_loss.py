"""Focal loss, and R-Drop's divergence between two forward passes, for classifiers."""

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.tasks.losses import IGNORED, binary_cross_entropy, cross_entropy


def focal_loss(
    logits: Tensor,
    labels: Tensor,
    gamma: float,
    *,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Sums and counts [B] of the cross-entropy of logits [B, C], times (1 - p) ** gamma.

    p is the probability of the sample's own class (Lin et al. 2017, "Focal Loss for Dense Object
    Detection", equation 4; `class_weights` are its alpha). Smoothing and counts are those of
    `cross_entropy`.
    """
    sums, counts = cross_entropy(
        logits, labels, label_smoothing=label_smoothing, class_weights=class_weights
    )
    known = labels.clamp(min=0).unsqueeze(1)
    log_probs = logits.to(sums.dtype).log_softmax(-1).gather(1, known).squeeze(1)
    complement = (-torch.expm1(log_probs)).clamp(min=torch.finfo(sums.dtype).tiny)
    return sums * torch.where(labels != IGNORED, complement**gamma, 1.0), counts


def binary_focal_loss(
    logits: Tensor,
    labels: Tensor,
    gamma: float,
    *,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Sums and counts [B] of the focal loss of every binary label, as in torchvision.

    Logits and labels are [B, C]; p is the probability of the right value. Smoothing, class weights
    and counts are those of `binary_cross_entropy`.
    """
    _, counts = binary_cross_entropy(logits, labels)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    wanted = labels.to(logits.dtype)
    targets = wanted * (1 - label_smoothing) + label_smoothing / 2
    weights = None if class_weights is None else class_weights.to(logits)
    losses = F.binary_cross_entropy_with_logits(logits, targets, weight=weights, reduction="none")
    right = torch.where(wanted > 0.5, logits, -logits)
    complement = torch.sigmoid(-right).clamp(min=torch.finfo(logits.dtype).tiny)
    return (losses * complement**gamma).sum(-1), counts


def symmetric_kl(first: Tensor, second: Tensor) -> Tensor:
    """[B], half of KL(P || Q) + KL(Q || P), where P and Q are the softmax of logits [B, C]."""
    p, q = (_at_least_fp32(x).log_softmax(-1) for x in (first, second))
    return ((p.exp() - q.exp()) * (p - q)).sum(-1) / 2


def symmetric_bernoulli_kl(first: Tensor, second: Tensor) -> Tensor:
    """[B], `symmetric_kl` of independent Bernoulli variables with logits [B, C], summed over C."""
    first, second = _at_least_fp32(first), _at_least_fp32(second)
    return ((first.sigmoid() - second.sigmoid()) * (first - second)).sum(-1) / 2


def _at_least_fp32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
