"""Sampling: chooses the next token from logits, as a function of the seed, row and position."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from trainer.devices.precision import in_float64
from trainer.errors import NumericsError
from trainer.generation.settings import GenerationSettings

UNIT = 2.0**52
"""The integer that represents a probability of 1 in `_integer_probabilities`."""


def choose(
    logits: Tensor,
    seen: Tensor | None,
    rows: Sequence[int],
    place: int,
    settings: GenerationSettings,
) -> Tensor:
    """Choose the next token [B] from logits [B, V]; `place` tokens have been generated before.

    `rows` are the indices of the texts. `seen` [B, V] bool marks the tokens of each text, for the
    repetition penalty. Of equal logits, the token with the lower id is chosen. A token is -1 if the
    largest logit of its text is not finite; raising an exception would need a synchronization with
    the device.
    """
    logits = logits.float()
    if seen is not None:
        logits = penalized(logits, seen, settings.repetition_penalty)
    peak = logits.amax(-1, keepdim=True)
    if settings.temperature == 0:
        return marked(logits.argmax(-1), peak)
    # a temperature near 0 gives -inf for all but the most probable token, and never NaN
    scores = restricted(in_float64(logits - peak) / settings.temperature, settings)
    chosen = draw(scores, settings.seed, rows, place)
    return marked(chosen.to(peak.device, non_blocking=True), peak)


def draw(scores: Tensor, seed: int, rows: Sequence[int], place: int) -> Tensor:
    """Sample a token for each row [B] from the softmax of scores [B, V]."""
    return pick(scores, [uniform(seed, row, place) for row in rows])


def pick(scores: Tensor, draws: Sequence[float]) -> Tensor:
    """The first token of each row at which the cumulative softmax of scores [B, V] exceeds a draw.

    `draws` has a number in [0, 1) for each row.
    """
    sums = _integer_probabilities(scores).cumsum(-1)
    quantiles = torch.tensor(draws, dtype=torch.float64).to(sums.device, non_blocking=True)
    total = sums[:, -1:]
    target = (quantiles.unsqueeze(1) * total).long().minimum(total - 1)
    return torch.searchsorted(sums, target, right=True).squeeze(1)


def check_chosen(tokens: Sequence[int], rows: Sequence[int], place: int) -> None:
    """Raise NumericsError if `choose` could not choose a token."""
    for token, row in zip(tokens, rows, strict=True):
        if token < 0:
            raise NumericsError(
                f"generation: token {place} of text {row}: its logits are not finite"
            )


def marked(tokens: Tensor, peak: Tensor) -> Tensor:
    """The tokens [B], replaced by -1 where the largest logit `peak` [B, 1] is not finite."""
    return tokens.masked_fill(~peak.squeeze(1).isfinite(), -1)


def _integer_probabilities(scores: Tensor) -> Tensor:
    """The softmax of scores [B, V] in float64, as integers in units of 2^-52.

    Sums of integers do not depend on the order of the terms. On CUDA, cumulative sums of floats do,
    so `deterministic=true` refuses them.
    """
    return as_integers(scores.softmax(-1))


def as_integers(x: Tensor) -> Tensor:
    """Small numbers as integers in units of 2^-52."""
    return (x.double() * UNIT).round().long()


def penalized(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Divide positive, and multiply negative, logits of seen tokens (Keskar et al., 2019)."""
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def restricted(scores: Tensor, settings: GenerationSettings) -> Tensor:
    """Scores [B, V] with -inf for the tokens that top_k, top_p and min_p (in this order) exclude.

    top_p is nucleus sampling (Holtzman et al., 2019); min_p is from Nguyen et al. (2024).
    """
    if settings.top_k is not None:
        threshold = scores.topk(min(settings.top_k, scores.shape[-1])).values[:, -1:]
        scores = scores.masked_fill(scores < threshold, -torch.inf)
    if settings.top_p < 1:
        ascending, order = scores.sort()
        sums = _integer_probabilities(ascending).cumsum(-1)
        excluded = sums <= round((1 - settings.top_p) * UNIT)
        excluded[:, -1] = False
        scores = scores.masked_fill(excluded.scatter(1, order, excluded), -torch.inf)
    if settings.min_p > 0:
        probabilities = scores.softmax(-1)
        threshold = probabilities.amax(-1, keepdim=True) * settings.min_p
        scores = scores.masked_fill(probabilities < threshold, -torch.inf)
    return scores


def uniform(seed: int, row: int, place: int) -> float:
    """A pseudo-random number in [0, 1) that depends only on the arguments."""
    digest = hashlib.blake2b(f"{seed} {row} {place}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 12) / 2**52
