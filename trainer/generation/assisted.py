"""Assisted decoding: drafts several tokens with a small model or from the text, then checks them.

The model checks all tokens of a draft in one call. Greedy texts are the same as without drafts, and
sampled texts have the same distribution (Leviathan et al., 2023). Texts are generated one after
another. Shapes: k drafted tokens, V tokens of the vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from trainer.devices.precision import device_with_float64, in_float64
from trainer.errors import InputError, NumericsError
from trainer.generation.drafts import Assistant, Draft, PromptLookup
from trainer.generation.extending import check_streamer, put
from trainer.generation.logit_rules import Rule
from trainer.generation.outputs import GenerateOutput
from trainer.generation.plan import Plan
from trainer.generation.scored_text import ScoredText
from trainer.generation.stopping import ended
from trainer.generation.traces import traces


def extend_with_drafts(plan: Plan) -> GenerateOutput:
    """Generate the texts of a plan one after another.

    Raises InputError if the assistant's vocabulary and the model's differ in size, and if several
    texts are streamed.
    """
    texts, copies = [], plan.settings.num_return_sequences
    check_streamer(plan.settings.streamer, len(plan.ids) * copies)
    for row in range(len(plan.ids)):
        for copy in range(copies):
            number = plan.first + row * copies + copy
            texts.append(_Text(plan.of_row(row, number)).grow())
    return _joined(plan, texts)


@dataclass
class _Text:
    """A text that grows in each step by the accepted tokens of a draft and one more token."""

    plan: Plan
    """The plan of this text only."""
    steps: list[Tensor] = field(default_factory=list)
    """The scores [1, V] of each token, after all rules, if they are requested."""
    raw: list[Tensor] = field(default_factory=list)
    """The model's own logits [1, V] of each token, if they are requested."""

    def __post_init__(self) -> None:
        plan = self.plan
        self.ids = plan.ids
        """The ids of the text [1, n], including leading pads."""
        self.checked = ScoredText(plan.model, plan.source)
        self.rules, self.stops = plan.rules(1), plan.stops()
        # the drafts' and the model's probabilities are in float64, so it is where they are
        place = device_with_float64(plan.ids.device)
        self.generator = torch.Generator(place).manual_seed(plan.own_seed)
        # drafts are not guided: guidance would need a call to the model for each drafted token
        drafting = self.rules[1:] if plan.is_guided else self.rules
        self.drafter = _drafter(plan, drafting, self.generator)

    def grow(self) -> "_Text":
        """Generate tokens until the text has ended; returns this object."""
        put(self.plan.settings.streamer, self.ids)
        while not self._extend():
            pass
        if self.plan.settings.streamer is not None:
            self.plan.settings.streamer.end()
        return self

    def _extend(self) -> bool:
        """Draft tokens, and append those that the model accepts. Returns whether the text ends."""
        room = self.plan.max_length - self.ids.shape[1] - 1
        draft = self.drafter.draft(self.ids, self.plan.mask, room)
        grown = torch.cat((self.ids, draft.tokens.unsqueeze(0)), 1)
        count = len(draft.tokens) + 1
        logits = self.checked.logits(_without_pads(grown, self.plan.mask), count)
        scores = self._ruled(grown, logits)
        tokens = self._accepted(draft, scores)
        kept = self.plan.settings
        for index, token in enumerate(tokens.split(1)):
            self.ids = torch.cat((self.ids, token.unsqueeze(0)), 1)
            if kept.output_logits:
                self.raw.append(logits[index : index + 1])
            if kept.output_scores:
                self.steps.append(scores[index : index + 1])
            put(self.plan.settings.streamer, token)
            if bool(ended(self.stops, self.ids, tuple(self.steps))):
                return True
        return False

    def _ruled(self, grown: Tensor, logits: Tensor) -> Tensor:
        """Apply all rules to logits [k + 1, V], given the ids that precede each position."""
        rows, first = [], grown.shape[1] - len(logits) + 1
        for index, scores in enumerate(logits.split(1)):
            for rule in self.rules:
                scores = rule(grown[:, : first + index], scores)
            rows.append(scores)
        found = torch.cat(rows)
        if not bool(found.amax(-1).isfinite().all()):
            raise NumericsError(
                f"generation: token {first} of a text: all scores are -inf, or one is NaN or inf"
            )
        return found

    def _accepted(self, draft: Draft, scores: Tensor) -> Tensor:
        """The accepted tokens of the draft, followed by one token that the model chooses."""
        k = len(draft.tokens)
        if not self.plan.settings.do_sample:
            best = scores.argmax(-1)
            return best[: _first_false(best[:k] == draft.tokens) + 1]
        return self._sampled(draft, in_float64(scores).softmax(-1)).to(scores.device)

    def _sampled(self, draft: Draft, probabilities: Tensor) -> Tensor:
        """The accepted tokens and one more, by the model's probabilities [k + 1, V] in float64."""
        device, tokens, k = probabilities.device, draft.tokens, len(draft.tokens)
        tokens = tokens.to(device)
        if draft.probabilities is None:  # keep the sampled tokens up to the first that differs
            sampled = torch.multinomial(probabilities, 1, generator=self.generator).flatten()
            return sampled[: _first_false(sampled[:k] == tokens) + 1]
        positions = torch.arange(k, device=device)
        drafted = draft.probabilities[positions, tokens]
        ratio = probabilities[positions, tokens] / drafted
        draws = torch.rand(k, dtype=torch.float64, device=device, generator=self.generator)
        accepted = _first_false(draws < ratio)
        rest = probabilities[accepted]
        if accepted < k:
            rest = (rest - draft.probabilities[accepted]).clamp(min=0)
        last = torch.multinomial(rest, 1, generator=self.generator)
        return torch.cat((tokens[:accepted], last))


def _drafter(plan: Plan, rules: Sequence[Rule], generator: torch.Generator) -> Any:
    settings = plan.settings
    if settings.assistant_model is None:
        return PromptLookup(
            settings.prompt_lookup_num_tokens or 1,
            settings.max_matching_ngram_size or 2,
            plan.ends,
        )
    own, other = plan.model.config.vocab_size, settings.assistant_model.config.vocab_size
    if own != other:
        found = f"found a vocabulary of {other:,} tokens"
        raise InputError(f"assistant_model: {found}; accepted: {own:,}, with the same tokenizer")
    return Assistant(plan, rules, generator)


def _without_pads(ids: Tensor, mask: Tensor) -> Tensor:
    """The ids [t] of a text [1, n] without pads.

    The mask [1, L] is False at pads among the first L ids; later ids are never pads.
    """
    return torch.cat((ids[:, : mask.shape[1]][mask], ids[0, mask.shape[1] :]))


def _first_false(holds: Tensor) -> int:
    """The index of the first false value, or the length if all values are true."""
    return int(holds.long().cumprod(0).sum())


def _joined(plan: Plan, texts: Sequence[_Text]) -> GenerateOutput:
    """The output for all texts, which are padded at the end to equal lengths."""
    settings, width = plan.settings, plan.ids.shape[1]
    ids = pad_sequence([text.ids[0] for text in texts], True, plan.pad)
    found = GenerateOutput(ids, lengths=torch.tensor([text.ids.shape[1] - width for text in texts]))
    if not settings.return_dict_in_generate:
        return found
    kept = {"scores": settings.output_scores, "logits": settings.output_logits}
    for name, rows in (("scores", "steps"), ("logits", "raw")):
        if kept[name]:
            padded = pad_sequence([torch.cat(getattr(text, rows)) for text in texts], True)
            found[name] = tuple(padded.unbind(1))
    return replace(found, **traces(plan, ids, settings.num_return_sequences))
