"""Plan: a checked call to `generate`, with its first tokens, logit rules and stop conditions."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from trainer.errors import InputError
from trainer.generation import logit_rules as rule
from trainer.generation import stopping
from trainer.generation.generative_model import GenerativeModel
from trainer.generation.growing_texts import GrowingTexts, Source
from trainer.generation.hub_settings import NEW_TOKENS, HubSettings
from trainer.generation.logit_rules import Rule
from trainer.generation.setting_checks import check_batch, check_ids, listed, pairs_of
from trainer.generation.stopping import Stop
from trainer.generation.unguided import Unguided


@dataclass(frozen=True)
class Plan:
    """A call to `generate`. Raises InputError for prompts that exceed the model's positions."""

    model: GenerativeModel
    settings: HubSettings
    ids: Tensor
    """[B, L], the prompts or, in an encoder-decoder, the decoder's first tokens."""
    mask: Tensor
    """[B, L] bool, True for tokens and False for pads."""
    seed: int
    source: Source | None = None
    """The input of the encoder, for an encoder-decoder."""
    first: int = 0
    """The index of the first text; sampling depends on the indices of the texts."""
    ends: list[int] = field(init=False)
    """The ids of the tokens that end a text."""
    pad: int = field(init=False)
    """The id of the pad token, or of an end token if there is no pad token."""
    new_tokens: int = field(init=False)
    """The number of tokens to generate, if the model has enough positions."""
    max_length: int = field(init=False)
    """The maximum length of a text, including pads; the model's positions limit it, too."""

    def __post_init__(self) -> None:
        settings, width = self.settings, self.ids.shape[1]
        ends = settings.end_ids(self.model)
        pads = (settings.pad_token_id, self.model.config.pad_token_id, *ends)
        new = NEW_TOKENS if settings.max_new_tokens is None else settings.max_new_tokens
        longest = width + new
        if settings.max_new_tokens is None and settings.max_length is not None:
            longest = settings.max_length
        if longest <= width:
            raise InputError(f"max_length: found {longest}; accepted: above {width}, the prompt's")
        longest_prompt = int(self.mask.sum(1).max())
        longest_source = 0 if self.source is None else int(self.source.mask.sum(1).max())
        room = self.model.longest_sequence
        if (found := max(longest_prompt, longest_source)) > room:
            raise InputError(f"input_ids: found {found} tokens; accepted: up to {room}")
        object.__setattr__(self, "new_tokens", longest - width)
        object.__setattr__(self, "ends", ends)
        object.__setattr__(self, "pad", next((i for i in pads if i is not None), 0))
        # + 1, since the last token of a text is never an input and needs no position
        limit = min(longest, width + room - longest_prompt + 1)
        object.__setattr__(self, "max_length", limit)
        check_ids(settings, self.model.config.vocab_size)
        if self.is_guided:
            self._check_guidance()

    def of_row(self, row: int, number: int) -> "Plan":
        """The plan for one text of the prompt `row`; the text has the index `number`."""
        one = slice(row, row + 1)
        source = self.source
        source = None if source is None else Source(source.ids[one], source.mask[one])
        settings = self.settings.of_row(row)
        ids, mask = self.ids[one], self.mask[one]
        return replace(self, settings=settings, ids=ids, mask=mask, source=source, first=number)

    @property
    def own_seed(self) -> int:
        """A seed that is derived from `seed` and the index of the first text."""
        return (self.seed * 1_000_003 + self.first) % 2**63

    @property
    def is_guided(self) -> bool:
        """Whether texts use classifier-free guidance; its rule is then the first one."""
        return self.settings.guidance_scale not in (None, 1)

    def texts(self, copies: int) -> GrowingTexts:
        """The initial texts, `copies` of each prompt."""
        return GrowingTexts(self.model, self.ids, self.mask, copies, self.source)

    def rules(self, copies: int) -> list[Rule]:
        """The rules that change logits, for `copies` texts per prompt, in transformers' order."""
        s = self.settings
        found = [
            *self._first_rules(copies),
            *self._lexical_rules(),
            *self._length_rules(),
            *([rule.allowed_by(fn, copies)] if (fn := s.prefix_allowed_tokens_fn) else []),
            *self._forcing_rules(),
            *map(rule.checked, s.logits_processor),
            *(self._sampling_rules() if s.do_sample else []),
        ]
        if s.watermarking_config is not None:
            size, device = self.model.config.vocab_size, str(self.ids.device)
            found.append(s.watermarking_config.construct_processor(size, device))
        return [*found, rule.renormalized] if s.renormalize_logits else found

    def _first_rules(self, copies: int) -> list[Rule]:
        """The rules that come first: guidance, sequence biases, and repetition."""
        s, found = self.settings, []
        read = (self.ids if self.source is None else self.source.ids).repeat_interleave(copies, 0)
        if self.is_guided:
            found.append(rule.guided(s.guidance_scale or 1.0, self._unguided(copies)))
        if s.sequence_bias:
            biases: dict[Sequence[int], float] = {
                tuple(start): bias for start, bias in pairs_of(s.sequence_bias)
            }
            found.append(rule.sequence_bias(biases))
        if s.encoder_repetition_penalty != 1:
            found.append(rule.more_probable(s.encoder_repetition_penalty, read))
        if s.repetition_penalty != 1:
            pads = (~self.mask).repeat_interleave(copies, 0)
            found.append(rule.repetition_penalty(s.repetition_penalty, pads))
        if s.no_repeat_ngram_size:
            found.append(rule.no_repeated_ngrams(s.no_repeat_ngram_size))
        if s.encoder_no_repeat_ngram_size:
            found.append(rule.no_ngrams_of(read, s.encoder_no_repeat_ngram_size))
        return found

    def _check_guidance(self) -> None:
        """Raise InputError if guidance is impossible.

        The decoder of an encoder-decoder has no prompt that could be left out, and each prompt
        needs one negative prompt if any are given.
        """
        s, count = self.settings, len(self.ids)
        if self.source is not None:
            accepted = "accepted: 1 for an encoder-decoder, since its decoder has no prompt"
            raise InputError(f"guidance_scale: found {s.guidance_scale}; {accepted}")
        check_batch(s, "negative_prompt_ids", "negative_prompt_attention_mask", count)

    def _unguided(self, copies: int) -> Unguided:
        """The logits of the same texts without their prompts.

        These texts begin with negative_prompt_ids, or with the last token of each prompt.
        """
        s, device = self.settings, self.ids.device
        ids = (
            self.ids[:, -1:] if s.negative_prompt_ids is None else s.negative_prompt_ids.to(device)
        )
        given = s.negative_prompt_attention_mask
        mask = torch.ones_like(ids, dtype=torch.bool) if given is None else given.to(device) != 0

        def start(tokens: Tensor) -> GrowingTexts:
            if not tokens.shape[1]:
                return GrowingTexts(self.model, ids, mask, copies)
            before, seen = (each.repeat_interleave(copies, 0) for each in (ids, mask))
            whole = torch.cat((before, tokens), 1)
            seen = torch.cat((seen, torch.ones_like(tokens, dtype=torch.bool)), 1)
            return GrowingTexts(self.model, whole, seen, 1)

        return Unguided(start, self.ids.shape[1])

    def _lexical_rules(self) -> list[Rule]:
        """The rule that forbids `bad_words_ids`."""
        s, ends = self.settings, [[end] for end in self.ends]
        words = [tuple(word) for word in s.bad_words_ids if list(word) not in ends]
        return [rule.sequence_bias(dict.fromkeys(words, rule.NEVER))] if words else []

    def _length_rules(self) -> list[Rule]:
        """The rule that forbids end tokens before the minimum length."""
        s, width = self.settings, self.ids.shape[1]
        min_length = max(s.min_length, width + s.min_new_tokens if s.min_new_tokens else 0)
        ends = self._in_vocabulary(self.ends)
        return [rule.suppressed(ends, to_length=min_length)] if min_length and ends else []

    def _in_vocabulary(self, tokens: Sequence[int]) -> list[int]:
        """The tokens that the model has a score for."""
        return [token for token in tokens if 0 <= token < self.model.config.vocab_size]

    def _forcing_rules(self) -> list[Rule]:
        """The rules that force or suppress tokens, favor end tokens, or replace invalid scores."""
        s, width = self.settings, self.ids.shape[1]
        found: list[Rule] = []
        if s.forced_bos_token_id is not None:
            found.append(rule.forced([s.forced_bos_token_id], 1))
        if s.forced_eos_token_id is not None:
            found.append(rule.forced(listed(s.forced_eos_token_id), self.max_length - 1))
        if s.remove_invalid_values:
            found.append(rule.finite)
        if s.exponential_decay_length_penalty is not None and (
            ends := self._in_vocabulary(self.ends)
        ):
            start, factor = s.exponential_decay_length_penalty
            found.append(rule.growing_end(ends, width + start, factor))
        if never := self._in_vocabulary(s.suppress_tokens):
            found.append(rule.suppressed(never))
        if at_first := self._in_vocabulary(s.begin_suppress_tokens):
            first = width if width > 1 or s.forced_bos_token_id is None else width + 1
            found.append(rule.suppressed(at_first, first, first + 1))
        return found

    def _sampling_rules(self) -> list[Rule]:
        s = self.settings
        at_least = 1 + len(self.ends) if s.num_beams > 1 else 1
        wanted = (
            (s.temperature != 1, rule.divided(s.temperature)),
            (s.top_h is not None, rule.top_h(s.top_h or 1.0)),
            (bool(s.top_k), rule.top_k(s.top_k or 1, at_least)),
            (s.top_p < 1, rule.top_p(s.top_p, at_least)),
            (s.min_p > 0, rule.min_p(s.min_p, at_least)),
            (s.typical_p < 1, rule.typical_p(s.typical_p, at_least)),
            (0 < s.epsilon_cutoff < 1, rule.epsilon_cutoff(s.epsilon_cutoff, at_least)),
            (0 < s.eta_cutoff < 1, rule.eta_cutoff(s.eta_cutoff, at_least)),
        )
        return [each for holds, each in wanted if holds]

    def stops(self) -> list[Stop]:
        """The stop conditions; a text ends as soon as one of them holds."""
        s = self.settings
        found = [stopping.at_length(self.max_length), *s.stopping_criteria]
        if self.ends:
            found.append(stopping.at_tokens(self.ends))
        if s.max_time is not None:
            found.append(stopping.after_seconds(s.max_time))
        if s.stop_strings:
            strings = [s.stop_strings] if isinstance(s.stop_strings, str) else list(s.stop_strings)
            found.append(stopping.at_strings(strings, s.tokenizer))
        return found
