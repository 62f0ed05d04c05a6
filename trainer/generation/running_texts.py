"""RunningTexts: a batch of growing texts, in which texts can be added or removed after each step.

This is continuous batching (Yu et al., 2022): a new text does not wait for others to end.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from trainer.generation.decoding import next_inputs
from trainer.generation.eval_mode import prepare
from trainer.generation.generative_model import GenerativeModel
from trainer.generation.token_choice import (
    ChoiceSettings,
    ChoosingText,
    Chosen,
    choose_tokens,
    with_logprobs,
)
from trainer.models.cache import KeyValueCache
from trainer.models.slot_cache import SlotCache

SCORED_AT_A_TIME = 128
"""The maximum number of tokens of a call if the log-probabilities of a prompt are requested."""


class RunningText(ChoosingText):
    """A prompt and the tokens generated so far."""

    def __init__(
        self,
        settings: ChoiceSettings,
        prompt: Sequence[int],
        end_ids: frozenset[int],
        prompt_logprobs: int | None = None,
    ) -> None:
        """Start with a prompt and no generated tokens.

        `prompt_logprobs` is the number of alternatives to report with each token of the prompt;
        None requests no log-probabilities of the prompt.
        """
        super().__init__(settings, prompt, end_ids)
        self.prompt_logprobs = prompt_logprobs
        self.prompt_scores: list[Chosen] = []
        """The tokens of the prompt with their log-probabilities, if these are requested."""

    @property
    def max_cached(self) -> int:
        """The maximum number of cached tokens of this text: all but the last one."""
        return len(self.prompt) + self.settings.generation.max_new_tokens - 1

    @property
    def finish_reason(self) -> str | None:
        """The reason why the text has ended: "stop" or "length"; None if it has not ended."""
        if self.generated and self.generated[-1] in self.end_ids:
            return "stop"
        max_new_tokens = self.settings.generation.max_new_tokens
        return "length" if len(self.generated) >= max_new_tokens else None


class Reading:
    """Runs the model on the prompts of new texts (prefill), one part per call to `advance`."""

    def __init__(self, model: GenerativeModel, texts: Sequence[RunningText], part: int) -> None:
        """Prepare to read the prompts. A single prompt is divided into parts of `part` tokens.

        Several prompts are read in one part. A prompt that adjacent texts share as the same object
        is read once.
        """
        self.texts = list(texts)
        self._model = model
        firsts = [
            n for n, text in enumerate(texts) if not n or text.prompt is not texts[n - 1].prompt
        ]
        self._prompts = [texts[first].prompt for first in firsts]
        ends = [*firsts[1:], len(texts)]
        copies = torch.tensor([e - s for s, e in zip(firsts, ends, strict=True)])
        self._rows = torch.arange(len(firsts)).repeat_interleave(copies)
        self._wanted = texts[0].prompt_logprobs if len(firsts) == 1 else None
        self._part = part if self._wanted is None else min(part, SCORED_AT_A_TIME)
        longest = max(map(len, self._prompts))
        if len(self._prompts) > 1 or model.body.keys_depend_on_length:
            self._part = longest
        self._done = 0
        self.cells = len(texts) * longest
        """The maximum size of the cache (texts x tokens), once each text has a copy of its
        prompt."""
        self.cache = KeyValueCache(len(self._prompts), longest)
        self.logits: Tensor | None = None
        """The logits of the first new tokens [number of texts, vocabulary]; None before the last
        part."""

    @torch.no_grad()
    def advance(self) -> bool:
        """Read the next part; returns whether it was the last part."""
        start, end = self._done, self._done + self._part
        parts = [prompt[start:end] for prompt in self._prompts]
        new = torch.tensor([token for part in parts for token in part])
        lengths = torch.tensor([len(part) for part in parts])
        inputs = next_inputs(self._model, {}, new, lengths)
        outputs = self._model(**inputs, cache=self.cache)
        self._done = end
        if self._wanted is not None:
            self._score(outputs.projection.rows(), start)
        if end < max(map(len, self._prompts)):
            return False
        self.logits = outputs.projection.last().logits()
        if len(self._rows) > len(self._prompts):
            rows = self._rows.to(self.logits.device, non_blocking=True)
            self.logits = self.logits.index_select(0, rows)
            self.cache.keep(self._rows)
        return True

    def _score(self, logits: Tensor, start: int) -> None:
        """Store the log-probabilities of the prompt's tokens after `start`, from logits [n, V]."""
        prompt, num_alternatives = self._prompts[0], self._wanted or 0
        found = [] if start else [Chosen(prompt[0])]
        after = prompt[start + 1 : start + 1 + len(logits)]
        found += with_logprobs(logits[: len(after)], after, num_alternatives)
        for text in self.texts:
            text.prompt_scores += found


class RunningTexts:
    """The texts in the batch. Their new tokens are concatenated without padding.

    The tokens of a text do not depend on the other texts in the batch.
    """

    def __init__(self, model: GenerativeModel, max_cells: int | None = None) -> None:
        """Start with an empty batch.

        `max_cells` limits the number of texts times the length of the longest text; callers must
        not exceed it. The memory then contains the keys and values of at most that many tokens,
        including texts that are being read, plus a second copy of one layer while texts are moved.
        """
        self.model = model
        prepare(model)
        self.texts: list[RunningText] = []
        self._cache = SlotCache(max_cells)

    @property
    def cells(self) -> int:
        """The number of tokens for which the cache has allocated memory."""
        return self._cache.cells

    def read(self, texts: Sequence[RunningText], part: int) -> Reading:
        """Start to read the prompts of texts; `join` adds the texts to the batch later."""
        reading = Reading(self.model, texts, part)
        self._cache.reserve(reading.cells)
        return reading

    @torch.no_grad()
    def join(self, reading: Reading) -> list[tuple[RunningText, Chosen]]:
        """Add texts whose prompts have been read, and choose their first tokens."""
        assert reading.logits is not None
        self._cache.join(reading.cache, [text.max_cached for text in reading.texts])
        self.texts += reading.texts
        return list(_extended(reading.logits, reading.texts))

    @torch.no_grad()
    def step(self) -> list[tuple[RunningText, Chosen]]:
        """Add one token to each text. Texts that have ended stay until `remove` is called."""
        new = torch.tensor([text.generated[-1] for text in self.texts])
        inputs = next_inputs(self.model, {}, new, torch.ones_like(new))
        outputs = self.model(**inputs, cache=self._cache)
        return list(_extended(outputs.projection.last().logits(), self.texts))

    def remove(self, text: RunningText, broken: bool = False) -> None:
        """Remove a text from the batch; `broken` means that its logits were not finite."""
        row = self.texts.index(text)
        self._cache.leave(row, wipe=broken)
        last = self.texts.pop()
        if row < len(self.texts):
            self.texts[row] = last


def _extended(logits: Tensor, texts: Sequence[RunningText]) -> Iterator[tuple[RunningText, Chosen]]:
    for text, chosen in zip(texts, choose_tokens(logits, texts), strict=True):
        text.append(chosen.token)
        yield text, chosen
