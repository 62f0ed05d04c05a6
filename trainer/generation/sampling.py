"""Sampling: from the logits of the next token to one token, a function of seed, row and place."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from trainer.errors import NumericsError
from trainer.generation.settings import GenerationSettings
from trainer.precision import in_float64

UNIT = 2.0**52
"""What a probability of 1 is as a whole number."""


def choose(
    logits: Tensor,
    seen: Tensor | None,
    rows: Sequence[int],
    place: int,
    settings: GenerationSettings,
) -> Tensor:
    """The next token [B] of logits [B, V], after `place` tokens of the texts numbered `rows`.

    `seen` [B, V] bool are the tokens that are in the texts, for the repetition penalty. Ties go to
    the lower id. A token is -1 where a text's largest logit is not finite: to look at that here
    would make the host wait for the device once more.
    """
    logits = logits.float()
    if seen is not None:
        logits = penalized(logits, seen, settings.repetition_penalty)
    peak = logits.amax(-1, keepdim=True)
    if settings.temperature == 0:
        return _marked(logits.argmax(-1), peak)
    # near 0 a temperature makes all but the most probable -inf, and none NaN
    scores = restricted(in_float64(logits - peak) / settings.temperature, settings)
    sums = _shares(scores).cumsum(-1)
    draws = [uniform(settings.seed, row, place) for row in rows]
    drawn = torch.tensor(draws, dtype=torch.float64).to(sums.device, non_blocking=True)
    total = sums[:, -1:]
    target = (drawn.unsqueeze(1) * total).long().minimum(total - 1)
    chosen = torch.searchsorted(sums, target, right=True).squeeze(1)
    return _marked(chosen.to(peak.device, non_blocking=True), peak)


def check_chosen(tokens: Sequence[int], rows: Sequence[int], place: int) -> None:
    """Raises NumericsError where `choose` could choose no token."""
    for token, row in zip(tokens, rows, strict=True):
        if token < 0:
            raise NumericsError(
                f"generation: token {place} of text {row}: its logits are not finite"
            )


def _marked(tokens: Tensor, peak: Tensor) -> Tensor:
    """tokens [B], -1 where the largest logit of peak [B, 1] is not finite."""
    return tokens.masked_fill(~peak.squeeze(1).isfinite(), -1)


def _shares(scores: Tensor) -> Tensor:
    """Scores [B, V] in float64 -> probabilities [B, V], as whole numbers of 2^-52.

    Whole numbers add up to the same in any order: on CUDA, sums of fractions do not, and
    `deterministic=true` refuses them.
    """
    return (scores.softmax(-1) * UNIT).round().long()


def penalized(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Seen tokens' logits divided where above 0, else multiplied (Keskar et al., 2019)."""
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def restricted(scores: Tensor, settings: GenerationSettings) -> Tensor:
    """Scores [B, V] with -inf for the tokens that top_k, top_p and min_p leave out, in this order.

    top_p is nucleus sampling (Holtzman et al., 2019), min_p that of Nguyen et al. (2024).
    """
    if settings.top_k is not None:
        least = scores.topk(min(settings.top_k, scores.shape[-1])).values[:, -1:]
        scores = scores.masked_fill(scores < least, -torch.inf)
    if settings.top_p < 1:
        ascending, order = scores.sort()
        left_out = _shares(ascending).cumsum(-1) <= round((1 - settings.top_p) * UNIT)
        left_out[:, -1] = False
        scores = scores.masked_fill(left_out.scatter(1, order, left_out), -torch.inf)
    if settings.min_p > 0:
        probabilities = scores.softmax(-1)
        least = probabilities.amax(-1, keepdim=True) * settings.min_p
        scores = scores.masked_fill(probabilities < least, -torch.inf)
    return scores


def uniform(seed: int, row: int, place: int) -> float:
    """A number from 0 to below 1 that depends on nothing else."""
    digest = hashlib.blake2b(f"{seed} {row} {place}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 12) / 2**52
