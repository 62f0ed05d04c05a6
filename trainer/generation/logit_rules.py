"""Logit rules: functions that modify the scores of the next token, given the ids so far.

Shapes: N texts of n tokens each, including the pads of shorter prompts, and a vocabulary of V
tokens.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor

from trainer.errors import InputError
from trainer.foreign.counts import whole
from trainer.generation.sampling import UNIT, as_integers

Rule = Callable[[Tensor, Tensor], Tensor]
"""A function (ids [N, n], scores [N, V]) -> scores [N, V], like a transformers logits processor."""

NEVER = -torch.inf
NEARLY_0 = 1e-6
"""Temperatures below this could make scores overflow."""


def repetition_penalty(penalty: float, pads: Tensor) -> Rule:
    """Make the tokens that a text already contains less probable (Keskar et al., 2019).

    Their scores are divided by `penalty` if they are positive, and multiplied by it otherwise.
    `pads` [N, L] marks the pads among the first L tokens; these are ignored.
    """

    def rule(ids: Tensor, scores: Tensor) -> Tensor:
        size = scores.shape[1]
        new = pads.new_zeros(len(ids), ids.shape[1] - pads.shape[1])
        tokens = ids.masked_fill(torch.cat((pads, new), 1), size)
        seen = torch.zeros(len(ids), size + 1, dtype=torch.bool, device=scores.device)
        seen = seen.scatter(1, tokens, True)[:, :size]
        changed = torch.where(scores < 0, scores * penalty, scores / penalty)
        return torch.where(seen, changed, scores)

    return rule


def no_repeated_ngrams(size: int) -> Rule:
    """Forbid any sequence of `size` tokens from occurring twice in a text."""

    def rule(ids: Tensor, scores: Tensor) -> Tensor:
        if ids.shape[1] < size:
            return scores
        grams = ids.unfold(1, size, 1)  # [N, n - size + 1, size]
        start = ids[:, ids.shape[1] - size + 1 :].unsqueeze(1)
        same = (grams[:, :, :-1] == start).all(-1)
        banned = torch.zeros_like(scores, dtype=torch.int32)
        banned.scatter_add_(1, grams[:, :, -1], same.int())
        return scores.masked_fill(banned > 0, NEVER)

    return rule


def more_probable(factor: float, tokens: Tensor) -> Rule:
    """Make the tokens [N, S] of each source more probable, the opposite of a repetition penalty."""

    def rule(ids: Tensor, scores: Tensor) -> Tensor:
        own = scores.gather(1, tokens)
        return scores.scatter(1, tokens, torch.where(own < 0, own / factor, own * factor))

    return rule


def no_ngrams_of(source: Tensor, size: int) -> Rule:
    """Forbid sequences of `size` tokens that occur in the source [N, S]."""
    grams = source.unfold(1, size, 1) if source.shape[1] >= size else None

    def rule(ids: Tensor, scores: Tensor) -> Tensor:
        if grams is None or ids.shape[1] < size - 1:
            return scores
        start = ids[:, ids.shape[1] - size + 1 :].unsqueeze(1)
        same = (grams[:, :, :-1] == start).all(-1)
        banned = torch.zeros_like(scores, dtype=torch.int32)
        banned.scatter_add_(1, grams[:, :, -1], same.int())
        return scores.masked_fill(banned > 0, NEVER)

    return rule


def guided(scale: float, unguided: Callable[[Tensor], Tensor]) -> Rule:
    """Classifier-free guidance: amplify the effect of the prompt (Sanchez et al., 2023).

    `unguided(ids)` returns the logits [N, V] of the next tokens without the prompt.
    """

    def rule(ids: Tensor, scores: Tensor) -> Tensor:
        without = unguided(ids).log_softmax(-1)
        return scale * (scores.log_softmax(-1) - without) + without

    return rule


def sequence_bias(biases: Mapping[Sequence[int], float]) -> Rule:
    """Add a sequence's bias to the score of its last token if the text ends with the tokens before.

    A bias below the smallest finite float32 counts as -inf.
    """

    def rule(ids: Tensor, scores: Tensor) -> Tensor:
        added = torch.zeros_like(scores)
        smallest = torch.finfo(torch.float32).min
        for sequence, bias in biases.items():
            *start, last = sequence
            first = ids.shape[1] - len(start)
            if first >= 0:
                same = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
                for column, token in enumerate(start, first):  # without a copy to the device
                    same &= ids[:, column] == token
                number = float(bias) if bias >= smallest else NEVER  # torch would refuse it
                added[:, last] += torch.where(same, number, 0.0).to(added)
        return scores + added

    return rule


def suppressed(tokens: Sequence[int], from_length: int = 0, to_length: int | None = None) -> Rule:
    """Forbid these tokens while a text's length is at least `from_length` and below `to_length`."""
    ids_on = _copies(tokens)

    def rule(ids: Tensor, scores: Tensor) -> Tensor:
        length = ids.shape[1]
        if length < from_length or (to_length is not None and length >= to_length):
            return scores
        return scores.index_fill(1, ids_on(scores.device), NEVER)

    return rule


def _copies(ids: Sequence[int]) -> Callable[[torch.device], Tensor]:
    """A function device -> the ids as a tensor on that device. It copies them only once."""
    return cache(lambda device: torch.tensor(ids, device=device))


def forced(tokens: Sequence[int], length: int) -> Rule:
    """Allow only these tokens when texts have exactly `length` tokens."""
    ids_on = _copies(tokens)

    def rule(ids: Tensor, scores: Tensor) -> Tensor:
        if ids.shape[1] != length:
            return scores
        return torch.full_like(scores, NEVER).index_fill(1, ids_on(scores.device), 0.0)

    return rule


def allowed_by(choose: Callable[[int, Tensor], Sequence[int]], beams: int) -> Rule:
    """Allow only tokens that `choose(index of the prompt, ids [n])` returns.

    Each prompt has `beams` consecutive texts.
    """

    def rule(ids: Tensor, scores: Tensor) -> Tensor:
        hidden = torch.full_like(scores, NEVER)
        for row, text in enumerate(ids):
            tokens = choose(row // beams, text)
            hidden[row, _checked(tokens, row // beams, scores.shape[1])] = 0.0
        return scores + hidden

    return rule


def _checked(tokens: object, prompt: int, size: int) -> list[int]:
    """The tokens that a user's function allows for a prompt. Raises InputError for invalid ids."""
    plain = tokens.tolist() if isinstance(tokens, (Tensor, np.ndarray)) else tokens
    listed = list(plain) if isinstance(plain, Iterable) else []
    numbers = [whole(token) for token in listed]
    found = [number for number in numbers if number is not None and 0 <= number < size]
    if found and len(found) == len(listed):
        return found
    wrong = next((t for t, n in zip(listed, numbers, strict=True) if n not in found), tokens)
    what = f"the token {wrong!r:.40}" if listed else f"{tokens!r:.40}"
    what = "no tokens" if tokens is None or (isinstance(plain, Iterable) and not listed) else what
    accepted = f"a list of ids from 0 to {size - 1}"
    raise InputError(
        f"prefix_allowed_tokens_fn: found {what} for prompt {prompt}; accepted: {accepted}"
    )


def checked(processor: Rule) -> Rule:
    """Wrap a user's logits processor in a rule that checks the result.

    The rule raises InputError unless the result has the shape of the scores.
    """

    def rule(ids: Tensor, scores: Tensor) -> Tensor:
        found: object = processor(ids, scores)
        if isinstance(found, Tensor) and found.shape == scores.shape:
            return found
        what = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"{found!r:.40}"
        accepted = f"scores of the shape {tuple(scores.shape)}"
        raise InputError(f"logits_processor: found {what} as a result; accepted: {accepted}")

    return rule


def growing_end(ends: Sequence[int], start: int, factor: float) -> Rule:
    """Make end tokens more probable with every token after the first `start` tokens."""
    ids_on = _copies(ends)

    def rule(ids: Tensor, scores: Tensor) -> Tensor:
        beyond = ids.shape[1] - start
        if beyond <= 0:
            return scores
        end_ids = ids_on(scores.device)
        own = scores.index_select(1, end_ids)
        more = torch.where(own.isfinite(), own.abs() * (_power(factor, beyond) - 1), 0.0)
        return scores.index_add(1, end_ids, more)

    return rule


def _power(factor: float, exponent: int) -> float:
    """factor ** exponent, at most 1e30, since long texts would overflow.

    With 1e30, an end token is already certain.
    """
    if factor > 1 and exponent * math.log(factor) > math.log(1e30):
        return 1e30
    return float(factor**exponent)


def finite(ids: Tensor, scores: Tensor) -> Tensor:
    """Replace NaN by 0, and infinities by the largest and smallest finite numbers."""
    limits = torch.finfo(scores.dtype)
    return torch.nan_to_num(scores, 0.0, posinf=limits.max, neginf=limits.min)


def renormalized(ids: Tensor, scores: Tensor) -> Tensor:
    """Turn scores into log-probabilities."""
    return scores.log_softmax(-1)


def divided(temperature: float) -> Rule:
    """Divide scores by a temperature.

    With a temperature near 0, the most probable token keeps a finite score, and other tokens may
    get -inf. With a temperature above the largest number of the scores' dtype, -inf stays -inf.
    """

    def rule(ids: Tensor, scores: Tensor) -> Tensor:
        limits = torch.finfo(scores.dtype)
        if temperature < NEARLY_0:
            scores = scores - scores.amax(-1, keepdim=True)
        return scores / min(max(temperature, limits.tiny), limits.max)

    return rule


def top_k(count: int, at_least: int) -> Rule:
    """Keep only the `count` most probable tokens, but at least `at_least` (Fan et al., 2018)."""

    def rule(ids: Tensor, scores: Tensor) -> Tensor:
        kept = min(max(count, at_least), scores.shape[1])
        return scores.masked_fill(scores < scores.topk(kept).values[:, -1:], NEVER)

    return rule


def top_p(mass: float, at_least: int) -> Rule:
    """Keep only the smallest set of tokens with this total probability (Holtzman et al., 2019)."""

    def rule(ids: Tensor, scores: Tensor) -> Tensor:
        ascending, order = scores.sort()
        removed = _sums(ascending.softmax(-1)) <= 1 - mass
        removed[:, -at_least:] = False
        return scores.masked_fill(removed.scatter(1, order, removed), NEVER)

    return rule


def min_p(share: float, at_least: int) -> Rule:
    """Keep tokens whose probability is at least `share` times the highest (Nguyen et al., 2024)."""

    def rule(ids: Tensor, scores: Tensor) -> Tensor:
        shares = scores.softmax(-1)
        return _without(scores, shares < share * shares.amax(-1, keepdim=True), at_least)

    return rule


def typical_p(mass: float, at_least: int) -> Rule:
    """Keep the tokens with surprisal nearest to the entropy, up to a total probability of `mass`.

    This is locally typical sampling (Meister et al., 2022).
    """

    def rule(ids: Tensor, scores: Tensor) -> Tensor:
        logs = scores.log_softmax(-1)
        entropy = -(logs * logs.exp()).nansum(-1, keepdim=True)
        distance, order = (-logs - entropy).abs().sort()
        sums = _sums(scores.gather(1, order).softmax(-1))
        last = (sums < mass).sum(1, keepdim=True).clamp(max=scores.shape[1] - 1)
        removed = distance > distance.gather(1, last)
        removed[:, :at_least] = False
        return scores.masked_fill(removed.scatter(1, order, removed), NEVER)

    return rule


def top_h(share: float) -> Rule:
    """Keep the most probable tokens while their terms of the entropy sum to at most `share` of it.

    Considers only the 100 most probable tokens (Potraghloo et al., 2025).
    """

    def rule(ids: Tensor, scores: Tensor) -> Tensor:
        highest, order = scores.topk(min(100, scores.shape[1]))
        logs = highest.log_softmax(-1)
        terms = -(logs * logs.exp()).nan_to_num(0.0)
        kept = _sums(terms) <= share * terms.sum(-1, keepdim=True)
        kept[:, 0] = True
        hidden = torch.ones_like(scores, dtype=torch.bool).scatter(1, order, ~kept)
        return scores.masked_fill(hidden, NEVER)

    return rule


def epsilon_cutoff(threshold: float, at_least: int) -> Rule:
    """Keep only tokens with at least this probability (Hewitt et al., 2022)."""
    return lambda ids, scores: _without(scores, scores.softmax(-1) < threshold, at_least)


def eta_cutoff(epsilon: float, at_least: int) -> Rule:
    """Keep tokens above a probability that decreases with the entropy (Hewitt et al., 2022)."""

    def rule(ids: Tensor, scores: Tensor) -> Tensor:
        logs = scores.log_softmax(-1)
        entropy = -(logs * logs.exp()).nansum(-1, keepdim=True)
        bound = (epsilon**0.5 * (-entropy).exp()).clamp(max=epsilon)
        return _without(scores, logs.exp() < bound, at_least)

    return rule


def _without(scores: Tensor, removed: Tensor, at_least: int) -> Tensor:
    """The scores, with those that `removed` marks set to -inf, except the `at_least` highest."""
    kept = min(at_least, scores.shape[1])
    below = scores < scores.topk(kept).values[:, -1:]
    return scores.masked_fill(removed & below, NEVER)


def _sums(x: Tensor) -> Tensor:
    """Cumulative sums of probabilities, or of terms of an entropy, over the last axis.

    In deterministic mode, torch refuses cumulative sums of floats on CUDA, so integers are added.
    """
    if x.device.type != "cuda" or not torch.are_deterministic_algorithms_enabled():
        return x.cumsum(-1)
    return (as_integers(x).cumsum(-1).double() / UNIT).to(x.dtype)
