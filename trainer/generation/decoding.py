"""Decoding: generates a token per step for each of several prompts, without padding.

Dimensions: B unfinished texts, a vocabulary of V tokens.
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from trainer.errors import InputError
from trainer.generation.eval_mode import eval_mode, prepare
from trainer.generation.generative_model import GenerativeModel
from trainer.generation.sampling import check_chosen, choose
from trainer.generation.settings import GenerationSettings
from trainer.models.cache import TextCache
from trainer.models.formats.generation_config import model_end_ids
from trainer.models.sequence_lengths import SequenceLengths


class Past:
    """The cached keys and values of a text, which the next text with the same beginning reuses."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        """The ids of the tokens in the cache."""
        self.cache: TextCache | None = None
        """The cache, which the `Decoding` of the first text creates."""

    def cut_back_to(self, prompt: Sequence[int]) -> None:
        """Keep only the cached tokens with which `prompt` starts, but not its last token."""
        pairs = zip(self.ids, prompt[:-1], strict=False)
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        assert self.cache is not None
        self.cache.cut_back(common)
        del self.ids[int(self.cache.lengths) :]


class Decoding:
    """A batch of texts that grow by one token per step until they are finished.

    The new tokens of all texts are concatenated without padding; only the cache of keys and values
    is padded. Finished texts are removed from the batch.
    """

    def __init__(
        self,
        model: GenerativeModel,
        prompts: Mapping[int, Sequence[int]],
        settings: GenerationSettings,
        end_ids: Collection[int] | None = None,
        past: Past | None = None,
    ) -> None:
        """Start texts from `prompts`: number of a text -> ids. Sampling depends on the numbers.

        `past`, for a single prompt, has the keys and values of an earlier text, and is updated.
        Raises InputError for a prompt that is empty or longer than the model's positions.
        """
        self.rows = list(prompts)
        """The numbers of the unfinished texts."""
        self.model = model
        prepare(model)
        self.settings = settings
        self.end_ids = frozenset(model_end_ids(model) if end_ids is None else end_ids)
        self._room = model.longest_sequence
        for row, prompt in prompts.items():
            _check_prompt(row, len(prompt), self._room)
        self._new = torch.tensor([token for prompt in prompts.values() for token in prompt])
        self._lengths = torch.tensor([len(prompt) for prompt in prompts.values()])
        self._num_generated = 0
        self._seen = self._seen_tokens() if settings.repetition_penalty != 1 else None
        self._cache = _cache_for(model, len(prompts), past)
        self._past = past
        self._source: dict[str, Any] = {}
        self._forced: dict[int, int] = {}
        self._unwritten: list[int] = []
        if is_encoder_decoder(model):
            self._start_from_source()
        if past is not None:
            (prompt,) = prompts.values()
            past.cut_back_to([] if model.body.keys_depend_on_length else prompt)
            self._new, self._lengths = self._new[len(past.ids) :], self._lengths - len(past.ids)
            self._unwritten = self._new.tolist()

    @torch.no_grad()
    def step(self) -> dict[int, int]:
        """Add one token to each unfinished text. Returns {number of the text: token}."""
        tokens = choose(self._logits(), self._seen, self.rows, self._num_generated, self.settings)
        last = self._num_generated == self.settings.max_new_tokens - 1
        forced = self._forced.get(0) if self._num_generated == 0 else None
        forced = self._forced.get(-1, forced) if last else forced
        if forced is not None:
            tokens = torch.full_like(tokens, forced)
        chosen = tokens.tolist()  # the only synchronization with the device in a step
        check_chosen(chosen, self.rows, self._num_generated)
        if self._seen is not None:
            self._seen.scatter_(1, tokens.unsqueeze(1), True)
        found = dict(zip(self.rows, chosen, strict=True))
        self._unwritten = chosen
        self._new, self._lengths = tokens, torch.ones(len(chosen), dtype=torch.int64)
        self._num_generated += 1
        full = (self._cache.lengths >= self._room).tolist()
        ended = self._num_generated >= self.settings.max_new_tokens
        rows = zip(self.rows, full, strict=True)
        self.finish(
            {row for row, no_room in rows if ended or no_room or found[row] in self.end_ids}
        )
        return found

    def finish(self, rows: Collection[int]) -> None:
        """Remove these texts from the batch."""
        kept = [index for index, row in enumerate(self.rows) if row not in rows]
        if len(kept) == len(self.rows):
            return
        self.rows = [self.rows[index] for index in kept]
        if not kept:
            return
        indices = torch.tensor(kept)
        self._cache.keep(indices)
        self._lengths = self._lengths[indices]
        indices = indices.to(self._new.device, non_blocking=True)
        self._new = self._new.index_select(0, indices)
        self._seen = None if self._seen is None else self._seen.index_select(0, indices)

    def _logits(self) -> Tensor:
        """The logits [B, V] of the next token of each text."""
        inputs = next_inputs(self.model, self._source, self._new, self._lengths)
        with eval_mode(self.model):
            outputs = self.model(**inputs, cache=self._cache)
        self._source = {}
        if self._past is not None:
            self._past.ids += self._unwritten
        return outputs.projection.last().logits()

    def _start_from_source(self) -> None:
        """Use the prompts as encoder input, and begin texts with the start token."""
        if self._past is not None:
            raise InputError("chat: found an encoder-decoder; accepted: a causal language model")
        self._source = {"input_ids": self._new, "lengths": self._lengths}
        self._new, self._lengths = first_tokens(self.model, len(self._lengths))
        self._cache = self.model.new_source_cache(len(self._lengths))
        self._forced = self.model.forced_tokens
        self._seen = None if self._seen is None else self._seen_tokens()

    def _seen_tokens(self) -> Tensor:
        """Whether each prompt contains each token of the vocabulary, [B, V] bool."""
        size = self.model.config.vocab_size
        seen = torch.zeros(len(self._lengths), size, dtype=torch.bool)
        for row, prompt in zip(seen, self._new.split(self._lengths.tolist()), strict=True):
            row[prompt] = True
        return seen.to(self.model.device, non_blocking=True)


def _cache_for(model: GenerativeModel, num_texts: int, past: Past | None) -> TextCache:
    if past is None or past.cache is None:
        cache: TextCache = model.new_cache(num_texts)
        if past is not None:
            past.cache = cache
        return cache
    return past.cache


def is_encoder_decoder(model: GenerativeModel) -> bool:
    """Whether a model is an encoder-decoder."""
    return bool(model.task == "seq2seq_lm")


def first_tokens(model: GenerativeModel, number: int) -> tuple[Tensor, Tensor]:
    """The start tokens of `number` decoder texts, and their lengths."""
    return torch.full((number,), model.start_id), torch.ones(number, dtype=torch.int64)


def next_inputs(
    model: GenerativeModel, source: Mapping[str, Tensor], new: Tensor, lengths: Tensor
) -> dict[str, Any]:
    """The arguments of a call to the model with the newest tokens.

    For the first call to an encoder-decoder, `source` has the encoder's `input_ids` and `lengths`;
    otherwise it is empty.
    """
    tokens = new.to(model.device, non_blocking=True), SequenceLengths(lengths)
    if not source:
        return {"input_ids": tokens[0], "sequence_lengths": tokens[1]}
    return {
        "input_ids": source["input_ids"].to(model.device, non_blocking=True),
        "sequence_lengths": SequenceLengths(source["lengths"]),
        "decoder_input_ids": tokens[0],
        "decoder_sequence_lengths": tokens[1],
    }


def _check_prompt(row: int, length: int, room: int) -> None:
    if not 0 < length <= room:
        raise InputError(f"prompt {row}: found {length} tokens; accepted: 1 to {room}")
