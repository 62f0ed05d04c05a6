"""GenerationWorker: generates texts in one batch, which new texts can join after any token."""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from trainer.generation.decoding import next_inputs
from trainer.generation.generative_model import GenerativeModel
from trainer.generation.running_texts import Reading, RunningText, RunningTexts
from trainer.generation.streaming import TextStreamer
from trainer.generation.token_choice import ChoiceSettings, Chosen
from trainer.models.cache import KeyValueCache
from trainer.serving.faults import RequestFault
from trainer.serving.figures import Figures
from trainer.serving.scheduler import Channel
from trainer.tokenizer import Tokenizer

CACHE_SHARE = 0.5
"""The share of the free memory that the key/value cache may take."""


@dataclass(eq=False)
class Prompt:
    """A prompt that is continued by one text for each of `settings`."""

    channel: Channel
    ids: Sequence[int]
    settings: Sequence[ChoiceSettings]
    end_ids: frozenset[int]
    first: int = 0
    """The index of the prompt's first text among all texts of the request."""
    streamed: bool = False
    """Whether to send each piece of text at once; otherwise all text is sent at the end."""
    shows_special: bool = False
    """Whether the texts include special tokens."""
    prompt_logprobs: int | None = None
    """The number of alternatives to report with each prompt token; None: no log-probabilities."""
    arrived: float = field(default_factory=time.monotonic)

    @property
    def reach(self) -> int:
        """The maximum number of tokens in the prompt plus one of its texts."""
        return len(self.ids) + max(each.generation.max_new_tokens for each in self.settings)


@dataclass(frozen=True)
class Piece:
    """A part of a generated text: everything since the previous piece."""

    index: int
    """The index of the text in the request."""
    text: str
    tokens: list[Chosen]
    """The tokens of the piece, if their log-probabilities are requested."""
    count: int
    """How many tokens of the text have been generated so far."""
    finish_reason: str | None = None
    """"stop" or "length"; None: the text is not complete."""
    prompt_scores: list[Chosen] | None = None
    """In the first piece of a text, the tokens of the prompt, if they are requested."""


class GenerationWorker:
    """Continues prompts with a generative model, in the model's thread."""

    def __init__(
        self,
        model: GenerativeModel,
        tokenizer: Tokenizer,
        figures: Figures,
        max_cache_tokens: int,
        max_read_tokens: int,
        max_running_texts: int,
    ) -> None:
        """The last three arguments limit the batch and the calls to the model.

        `max_cache_tokens` limits the number of texts times the length of the longest text, and
        `max_running_texts` limits the number of texts. One call to the model reads at most
        `max_read_tokens` tokens of prompts.
        """
        self.max_cache_tokens = max_cache_tokens
        self._tokenizer = tokenizer
        self._figures = figures
        self._max_read_tokens = max_read_tokens
        self._max_running_texts = max_running_texts
        self._batch = RunningTexts(model, max_cache_tokens)
        self._reading: Reading | None = None
        self._answers: dict[RunningText, _Answer] = {}

    @property
    def busy(self) -> bool:
        return bool(self._answers)

    @property
    def running(self) -> int:
        return len(self._answers)

    def admit(self, waiting: deque[Prompt]) -> None:
        """Start to read the first waiting prompts, as many as fit alongside the running texts."""
        admitted: list[Prompt] = []
        while waiting and self._reading is None:
            if waiting[0].channel.closed:
                waiting.popleft()
                continue
            if not self._can_join(waiting[0], admitted):
                break
            admitted.append(waiting.popleft())
        if not admitted:
            return
        texts = []
        for prompt in admitted:
            for number, settings in enumerate(prompt.settings, prompt.first):
                text = RunningText(settings, prompt.ids, prompt.end_ids, prompt.prompt_logprobs)
                self._answers[text] = _Answer(prompt, number, self._tokenizer)
                texts.append(text)
        self._reading = self._batch.read(texts, self._max_read_tokens)
        self._figures.read_tokens.inc(sum(len(prompt.ids) for prompt in admitted))

    def step(self) -> None:
        """Read a part of the new prompts, and then add a token to each running text."""
        self._drop_closed()
        if self._reading is not None and self._reading.advance():
            joined, self._reading = self._batch.join(self._reading), None
            self._send(joined)
        if self._batch.texts:
            self._send(self._batch.step())

    def fail(self, fault: RequestFault) -> None:
        for answer in self._answers.values():
            answer.prompt.channel.put(fault)
        self._answers.clear()
        self._reading = None
        self._batch = RunningTexts(self._batch.model, self.max_cache_tokens)

    def _can_join(self, prompt: Prompt, admitted: Sequence[Prompt]) -> bool:
        """Whether a prompt can be read together with the `admitted` ones, within all limits."""
        together = [*admitted, prompt]
        running = self.running + sum(len(each.settings) for each in together)
        if (
            running > self._max_running_texts or self._cells(together) > self.max_cache_tokens
        ) and (admitted or self._answers):
            return False
        alone = any(each.prompt_logprobs is not None for each in together)
        tokens = sum(len(each.ids) for each in together)
        return not admitted or (tokens <= self._max_read_tokens and not alone)

    def _cells(self, more: Sequence[Prompt]) -> int:
        """The cache size in tokens if `more` prompts join: number of texts x longest length."""
        reaches = [answer.prompt.reach for answer in self._answers.values()]
        reaches += [prompt.reach for prompt in more for _ in prompt.settings]
        return len(reaches) * max(reaches, default=0)

    def _send(self, found: Sequence[tuple[RunningText, Chosen]]) -> None:
        """Send the new tokens, and remove the texts that are complete."""
        self._figures.texts_per_call.observe(len(found))
        self._figures.generated_tokens.inc(len(found))
        for text, chosen in found:
            answer = self._answers[text]
            if len(text.generated) == 1:
                self._figures.first_token.observe(time.monotonic() - answer.prompt.arrived)
            if chosen.token < 0:
                message = f"token {len(text.generated)}: the model's logits are not finite"
                self._remove(text, broken=True)
                answer.prompt.channel.put(RequestFault(500, message, code="not_finite"))
            elif (piece := answer.add(text, chosen)) is not None:
                if piece.finish_reason is not None:
                    self._remove(text)
                answer.prompt.channel.put(piece)

    def _drop_closed(self) -> None:
        """Remove the texts of closed channels, whose clients have left."""
        reading = self._reading
        if reading is not None and all(self._is_closed(text) for text in reading.texts):
            for text in reading.texts:
                del self._answers[text]
            self._reading = None
        for text in [text for text in self._batch.texts if self._is_closed(text)]:
            self._remove(text)

    def _is_closed(self, text: RunningText) -> bool:
        return self._answers[text].prompt.channel.closed

    def _remove(self, text: RunningText, broken: bool = False) -> None:
        self._batch.remove(text, broken)
        del self._answers[text]


class _Answer:
    """Collects the decoded tokens of a running text into pieces."""

    def __init__(self, prompt: Prompt, index: int, tokenizer: Tokenizer) -> None:
        self.prompt = prompt
        self._index = index
        self._settings = prompt.settings[index - prompt.first]
        self._streamer = TextStreamer(
            tokenizer, self._settings.generation.stop, shows_special=prompt.shows_special
        )
        self._text = ""
        self._tokens: list[Chosen] = []
        self._sent_any = False

    def add(self, text: RunningText, chosen: Chosen) -> Piece | None:
        """Add a token; returns the piece to send now, if any."""
        reason = text.finish_reason
        self._text += self._streamer.add(chosen.token, last=reason is not None)
        if self._settings.logprobs is not None and reason != "stop":
            self._tokens.append(chosen)
        if self._streamer.stopped:
            reason = "stop"
        if reason is not None or (self.prompt.streamed and self._text):
            return self._piece(text, reason)
        return None

    def _piece(self, text: RunningText, reason: str | None) -> Piece:
        scores = text.prompt_scores if text.prompt_scores and not self._sent_any else None
        count = len(text.generated)
        found = Piece(self._index, self._text, self._tokens, count, reason, scores)
        self._text, self._tokens, self._sent_any = "", [], True
        return found


def cache_tokens_that_fit(model: GenerativeModel, available: int) -> int:
    """The number of tokens whose keys and values fit in CACHE_SHARE of the available bytes."""
    cache = KeyValueCache(1, 1)
    one = torch.ones(1, dtype=torch.int64)
    with torch.no_grad():
        model(**next_inputs(model, {}, one, one), cache=cache)
    layers = [sum(grid.nbytes for grid in grids) for grids in cache.grids.values()]
    # while texts are moved in the cache, one layer is in memory twice
    return max(2, int(CACHE_SHARE * available / (sum(layers) + max(layers))))
