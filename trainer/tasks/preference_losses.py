"""Preference losses of N samples, from the log-probabilities of completions.

`delta` [N] is the difference between the log-probabilities of the chosen and the rejected
completion, minus the same difference for the reference model, if there is one.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def sigmoid_loss(delta: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """[N], the negative log-likelihood that the chosen completion wins (Bradley and Terry, 1952).

    With `delta` multiplied by beta, it is the DPO loss (Rafailov et al. 2023, equation 7).
    `label_smoothing` is the probability that chosen and rejected are swapped (Mitchell 2023, "A
    note on DPO with noisy preferences").
    """
    if not label_smoothing:
        return -F.logsigmoid(delta)
    right, wrong = F.logsigmoid(delta), F.logsigmoid(-delta)
    return -(1 - label_smoothing) * right - label_smoothing * wrong


def hinge_loss(delta: Tensor) -> Tensor:
    """[N], max(0, 1 - delta) (Zhao et al. 2023, "SLiC-HF")."""
    return torch.relu(1 - delta)


def ipo_loss(delta: Tensor, beta: float) -> Tensor:
    """[N], the squared distance of delta from 1 / (2 beta) (Azar et al. 2023, equation 17).

    Log-probabilities are means over tokens, as in the authors' experiments.
    """
    return (delta - 1 / (2 * beta)).square()


def odds_ratio_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """[N], ORPO's odds ratio loss (Hong et al. 2024, equation 7), from means over tokens."""
    log_odds = chosen - rejected - (_log_complement(chosen) - _log_complement(rejected))
    return -F.logsigmoid(log_odds)


def kto_loss(
    log_ratios: Tensor,
    desirable: Tensor,
    kl: Tensor,
    *,
    beta: float,
    weights: tuple[float, float] = (1.0, 1.0),
) -> Tensor:
    """[N], the loss of single completions (Ethayarajh et al. 2024, "KTO", equation 8).

    `log_ratios` [N] are the model's log-probabilities minus the reference's. `desirable` [N] is
    bool. `kl` [N] is the reference point z0: a log-ratio above it is a gain. `weights` are the
    weights of desirable and of undesirable samples.
    """
    sign = torch.where(desirable, 1.0, -1.0).to(log_ratios)
    losses = 1 - torch.sigmoid(beta * sign * (log_ratios - kl))
    return torch.where(desirable, weights[0] * losses, weights[1] * losses)


def group_kl(log_ratios: Tensor, group_size: int) -> Tensor:
    """[N], the estimate of the KL divergence from the reference for each sample, without gradient.

    It is the mean of the log-ratios [N] of the sample's group, at least 0. Groups are `group_size`
    consecutive samples; the last may be shorter.
    """
    found = log_ratios.detach()
    groups = torch.arange(len(found), device=found.device) // group_size
    number = -(-len(found) // group_size)
    sums = found.new_zeros(number).index_add(0, groups, found)
    sizes = found.new_zeros(number).index_add(0, groups, torch.ones_like(found))
    return (sums / sizes).clamp(min=0)[groups]


def _log_complement(log_probs: Tensor) -> Tensor:
    """log(1 - p), from log p; finite even if p rounds to 1."""
    least = torch.finfo(log_probs.dtype).eps
    return torch.log(-torch.expm1(log_probs.clamp(max=-least)))
