"""Drafts: guesses of a text's next tokens, for speculative decoding.

Dimensions: a text of n tokens, k drafted tokens, a vocabulary of V tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.devices.precision import in_float64
from trainer.generation.logit_rules import Rule
from trainer.generation.plan import Plan
from trainer.generation.scored_text import ScoredText


@dataclass(frozen=True)
class Draft:
    """A guess of the next k tokens."""

    tokens: Tensor
    """The ids of the tokens [k]."""
    probabilities: Tensor | None = None
    """The distributions [k, V] from which the tokens were sampled; None if they were not."""


class PromptLookup:
    """Drafts the tokens that followed an earlier occurrence of the last tokens (Saxena, 2023)."""

    def __init__(self, count: int, longest: int, ends: Sequence[int]) -> None:
        self.count, self.longest, self.ends = count, longest, ends

    def draft(self, ids: Tensor, mask: Tensor, room: int) -> Draft:
        """The tokens after the first occurrence of the longest repeated suffix of ids [1, n]."""
        text, width = ids[0], ids.shape[1]
        for size in range(min(self.longest, width - 1), 0, -1):
            windows = text[:-1].unfold(0, size, 1)  # excludes the suffix itself
            starts = (windows == text[width - size :]).all(1).nonzero().flatten()
            if len(starts):
                start = int(starts[0]) + size
                found = text[start : start + min(self.count, room)]
                is_end = torch.isin(found, torch.tensor(self.ends, device=found.device))
                return Draft(found[: int((is_end.cumsum(0) == 0).sum())])
        return Draft(text[:0])


class Assistant:
    """Drafts tokens with a small model of this package or of transformers, under the same rules."""

    def __init__(self, plan: Plan, rules: Sequence[Rule], generator: torch.Generator) -> None:
        self.settings, self.rules, self.generator = plan.settings, rules, generator
        self.ends = torch.tensor(plan.ends, device=plan.ids.device)
        self.count = plan.settings.num_assistant_tokens
        self.drafted = 0
        """The number of tokens in the last draft."""
        self.width = 0
        """The length of the text before the last draft."""
        self.text = ScoredText(plan.settings.assistant_model, plan.source)

    @torch.no_grad()
    def draft(self, ids: Tensor, mask: Tensor, room: int) -> Draft:
        """Up to `count` tokens after ids [1, n]; the draft ends early at an improbable token."""
        self._adapt(ids.shape[1])
        grown = ids
        rows: list[Tensor] = []
        while len(rows) < min(self.count, room):
            flat = torch.cat((grown[:, : mask.shape[1]][mask], grown[0, mask.shape[1] :]))
            scores = self.text.logits(flat, 1)
            for rule in self.rules:
                scores = rule(grown, scores)
            probabilities = in_float64(scores).softmax(-1)  # on a device with the generator
            chosen = self._chosen(probabilities)
            token = chosen.to(grown.device)
            grown = torch.cat((grown, token), 1)
            rows.append(probabilities)
            if bool(torch.isin(token, self.ends)) or self._is_improbable(chosen, probabilities):
                break
        self.width, self.drafted = ids.shape[1], len(rows)
        tokens = grown[0, ids.shape[1] :]
        sampled = self.settings.do_sample and rows
        return Draft(tokens, torch.cat(rows) if sampled else None)

    def _chosen(self, probabilities: Tensor) -> Tensor:
        """The id of the next token [1, 1], chosen by the probabilities [1, V]."""
        if self.settings.do_sample:
            return torch.multinomial(probabilities, 1, generator=self.generator)
        return probabilities.argmax(-1, keepdim=True)

    def _is_improbable(self, token: Tensor, probabilities: Tensor) -> bool:
        threshold = self.settings.assistant_confidence_threshold
        return threshold is not None and bool(probabilities.gather(1, token) < threshold)

    def _adapt(self, width: int) -> None:
        """Raise `count` after a fully accepted draft, else lower it, unless it is constant."""
        if self.drafted == 0 or self.settings.num_assistant_tokens_schedule == "constant":
            return
        accepted = width - self.width == self.drafted + 1
        self.count = self.count + 2 if accepted else max(1, self.count - 1)
