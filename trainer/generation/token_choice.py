"""Token choice: chooses the next tokens of several texts, which may have different settings.

Shapes: N texts, V tokens of the vocabulary.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trainer.devices.precision import in_float64
from trainer.generation.sampling import marked, penalized, pick, restricted, uniform
from trainer.generation.settings import GenerationSettings

LEAST = -9999.0
"""The log-probability that is reported for impossible tokens, as in OpenAI's API."""


@dataclass(frozen=True)
class ChoiceSettings:
    """Settings for the choice of a text's next token."""

    generation: GenerationSettings
    number: int = 0
    """The number of the text; sampling depends on this number and the seed."""
    frequency_penalty: float = 0.0
    """The number subtracted from a token's logit for each occurrence in the generated text."""
    presence_penalty: float = 0.0
    """The number subtracted from the logit of each token that the generated text contains."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Token id -> the number added to the token's logit."""
    logprobs: int | None = None
    """The number of most probable tokens to report with each token; None reports none."""

    @property
    def is_adjusted(self) -> bool:
        """Whether a setting changes the logits before the temperature divides them."""
        s = self.generation
        return bool(
            self.frequency_penalty
            or self.presence_penalty
            or self.logit_bias
            or s.repetition_penalty != 1
            or s.min_new_tokens
        )


@dataclass(frozen=True)
class Chosen:
    """A token of a text, with the log-probabilities that were requested."""

    token: int
    """The id of the token, or -1 if the logits are not finite."""
    logprob: float | None = None
    """The log-probability of the token, from the unchanged logits.

    None if log-probabilities are not requested, and for the first token of a prompt.
    """
    alternatives: tuple[tuple[int, float], ...] = ()
    """The most probable tokens with their log-probabilities, in descending order."""


class ChoosingText:
    """A text with its settings, and with the token counts that penalties need."""

    def __init__(
        self, settings: ChoiceSettings, prompt: Sequence[int], end_ids: frozenset[int]
    ) -> None:
        self.settings = settings
        self.prompt = prompt
        self.end_ids = end_ids
        self.generated: list[int] = []
        self._seen: Tensor | None = None
        self._counts: Tensor | None = None
        self._biases: tuple[Tensor, Tensor] | None = None
        self._ends: Tensor | None = None

    def append(self, token: int) -> None:
        """Add a generated token."""
        self.generated.append(token)
        if self._seen is not None:
            self._seen.narrow(0, token, 1).fill_(True)
        if self._counts is not None:
            self._counts.narrow(0, token, 1).add_(1)

    def adjusted(self, logits: Tensor) -> Tensor:
        """The logits [V] after penalties and biases.

        End tokens get -inf until the text has `min_new_tokens` tokens.
        """
        s, found = self.settings, logits
        if s.generation.repetition_penalty != 1:
            if self._seen is None:
                self._seen = torch.zeros_like(logits, dtype=torch.bool)
                self._seen[[*self.prompt, *self.generated]] = True
            found = penalized(found, self._seen, s.generation.repetition_penalty)
        if s.frequency_penalty or s.presence_penalty:
            if self._counts is None:
                ids = _on_device(self.generated, logits.device)
                self._counts = torch.zeros_like(logits).index_add(
                    0, ids, torch.ones_like(ids, dtype=logits.dtype)
                )
            found = found - s.frequency_penalty * self._counts
            found = found - s.presence_penalty * (self._counts > 0).to(found.dtype)
        if s.logit_bias:
            if self._biases is None:
                bias = torch.tensor([*s.logit_bias.values()], dtype=found.dtype)
                self._biases = _on_device([*s.logit_bias], logits.device), bias.to(logits.device)
            found = found.index_add(0, *self._biases)
        if len(self.generated) < s.generation.min_new_tokens and self.end_ids:
            if self._ends is None:
                # a tokenizer may have end tokens beyond the model's vocabulary
                ends = [token for token in sorted(self.end_ids) if 0 <= token < len(logits)]
                self._ends = _on_device(ends, logits.device)
            found = found.index_fill(0, self._ends, -torch.inf)
        return found


def choose_tokens(logits: Tensor, texts: Sequence[ChoosingText]) -> list[Chosen]:
    """Choose the next token of each text from logits [N, V], as `sampling.choose` does.

    A text's token does not depend on the other texts.
    """
    logits = logits.float()
    scores = logits
    if any(text.settings.is_adjusted for text in texts):
        scores = torch.stack(
            [
                text.adjusted(row) if text.settings.is_adjusted else row
                for row, text in zip(logits, texts, strict=True)
            ]
        )
    peak = scores.amax(-1, keepdim=True)
    tokens = scores.argmax(-1)
    for rows in _sampled_groups(texts):
        indices = _on_device(rows, logits.device)
        tokens[indices] = _sampled(scores[indices] - peak[indices], [texts[row] for row in rows])
    # without log-probabilities, this is the only synchronization with the device
    chosen = marked(tokens, peak).tolist()
    with_scores = [row for row, text in enumerate(texts) if text.settings.logprobs is not None]
    found = [Chosen(token) for token in chosen]
    if not with_scores:
        return found
    num_alternatives = max(texts[row].settings.logprobs or 0 for row in with_scores)
    some_logits = logits[_on_device(with_scores, logits.device)]
    some_tokens = [max(0, chosen[row]) for row in with_scores]
    scored = with_logprobs(some_logits, some_tokens, num_alternatives)
    for row, each in zip(with_scores, scored, strict=True):
        if chosen[row] >= 0:
            alternatives = each.alternatives[: texts[row].settings.logprobs or 0]
            found[row] = Chosen(each.token, each.logprob, alternatives)
    return found


def with_logprobs(logits: Tensor, tokens: Sequence[int], num_alternatives: int) -> list[Chosen]:
    """The tokens [N] with their log-probabilities from logits [N, V].

    Each has the `num_alternatives` most probable tokens as its alternatives.
    """
    if not tokens:
        return []
    logs = logits.float().log_softmax(-1)
    ids = _on_device(tokens, logs.device).unsqueeze(1)
    logs = logs.clamp(min=LEAST)  # JSON cannot represent infinity
    own = logs.gather(1, ids).squeeze(1).tolist()
    best = logs.topk(min(num_alternatives, logs.shape[1]), dim=-1)
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [
        Chosen(token, value, tuple(zip(*pair, strict=True)))
        for token, value, pair in zip(tokens, own, pairs, strict=True)
    ]


def _on_device(numbers: Sequence[int], device: torch.device) -> Tensor:
    """A tensor of integers that is copied to a device without waiting for the copy."""
    return torch.tensor(numbers, dtype=torch.int64).to(device, non_blocking=True)


def _sampled_groups(texts: Sequence[ChoosingText]) -> list[list[int]]:
    """The rows of the texts that are sampled, in groups with equal sampling settings."""
    groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for row, text in enumerate(texts):
        s = text.settings.generation
        if s.temperature > 0:
            groups[s.temperature, s.top_k, s.top_p, s.min_p].append(row)
    return list(groups.values())


def _sampled(scores: Tensor, texts: Sequence[ChoosingText]) -> Tensor:
    """The sampled tokens [n] of texts with the same sampling settings, from scores [n, V].

    The largest score of each row is 0.
    """
    settings = texts[0].settings.generation
    draws = [
        uniform(text.settings.generation.seed, text.settings.number, len(text.generated))
        for text in texts
    ]
    chosen = pick(restricted(in_float64(scores) / settings.temperature, settings), draws)
    return chosen.to(scores.device, non_blocking=True)
