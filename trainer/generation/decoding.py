"""Decoding: prompts of any lengths, flat, and one more token for each at a time."""

from collections.abc import Collection, Mapping, Sequence
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from trainer.errors import InputError
from trainer.generation.sampling import check_chosen, choose
from trainer.generation.settings import GenerationSettings
from trainer.models.cache import KeyValueCache
from trainer.models.generation_config import model_end_ids
from trainer.models.pretrained import max_sequence_length
from trainer.models.sequence_lengths import SequenceLengths


def generate_ids(
    model: Any,
    prompts: Sequence[Sequence[int]],
    settings: GenerationSettings | None = None,
    end_ids: Collection[int] | None = None,
) -> list[list[int]]:
    """What follows each prompt, as ids; a token of `end_ids` is its last.

    `model` is a causal language model; its end tokens end a text unless `end_ids` are given.
    Neither the other prompts nor their order change what follows one but through its number, which
    the draws depend on. Stop texts take text: `trainer.generation.text.generate` knows them.
    """
    settings = settings or GenerationSettings()
    found: list[list[int]] = [[] for _ in prompts]
    for start in range(0, len(prompts), settings.batch_size):
        rows = range(start, min(start + settings.batch_size, len(prompts)))
        decoding = Decoding(model, {row: prompts[row] for row in rows}, settings, end_ids)
        while decoding.rows:
            for row, token in decoding.step().items():
                found[row].append(token)
    return found


class Past:
    """One text's tokens with their keys and values, for a next text that begins as it does."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        """The tokens that the cache holds"""
        self.cache = KeyValueCache(1)

    def cut_back_to(self, prompt: Sequence[int]) -> None:
        """Forget all but what `prompt` begins with; its last token is computed in any case."""
        pairs = zip(self.ids, prompt[:-1], strict=False)
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        self.cache.cut_back(common)
        del self.ids[common:]


class Decoding:
    """A batch of texts that grow by a token a step, each until it is finished.

    The prompts' tokens lie end to end, and so do the new ones: nothing is padded but the cache of
    keys and values. What is finished leaves the batch.
    """

    def __init__(
        self,
        model: Any,
        prompts: Mapping[int, Sequence[int]],
        settings: GenerationSettings,
        end_ids: Collection[int] | None = None,
        past: Past | None = None,
    ) -> None:
        """`prompts`: each text's number, and its ids. Raises InputError for one that does not fit.

        The numbers are what the draws depend on. `past`, for a single prompt, is what an earlier
        one left and this one adds to.
        """
        self.rows = list(prompts)
        """The numbers of the texts that still grow"""
        self.model = model
        self.settings = settings
        self.end_ids = frozenset(model_end_ids(model) if end_ids is None else end_ids)
        self._room = max_sequence_length(model.config)
        for row, prompt in prompts.items():
            _check_prompt(row, len(prompt), self._room)
        self._new = torch.tensor([token for prompt in prompts.values() for token in prompt])
        self._lengths = torch.tensor([len(prompt) for prompt in prompts.values()])
        self._place = 0
        self._seen = self._seen_tokens() if settings.repetition_penalty != 1 else None
        self._cache = KeyValueCache(len(prompts)) if past is None else past.cache
        self._past = past
        self._unwritten: list[int] = []
        if past is not None:
            (prompt,) = prompts.values()
            rope = getattr(model.body, "rope", None)
            keys_change = rope is not None and rope.kind == "dynamic"  # with the text's length
            past.cut_back_to([] if keys_change else prompt)
            self._new, self._lengths = self._new[len(past.ids) :], self._lengths - len(past.ids)
            self._unwritten = self._new.tolist()

    @torch.no_grad()
    def step(self) -> dict[int, int]:
        """One more token for each text that grows: its number, and the token."""
        tokens = choose(self._logits(), self._seen, self.rows, self._place, self.settings)
        chosen = tokens.tolist()  # the one wait for the device of a token
        check_chosen(chosen, self.rows, self._place)
        if self._seen is not None:
            self._seen.scatter_(1, tokens.unsqueeze(1), True)
        found = dict(zip(self.rows, chosen, strict=True))
        self._unwritten = chosen
        self._new, self._lengths = tokens, torch.ones(len(chosen), dtype=torch.int64)
        self._place += 1
        full = (self._cache.lengths >= self._room).tolist()
        ended = self._place >= self.settings.max_new_tokens
        rows = zip(self.rows, full, strict=True)
        self.finish(
            {row for row, no_room in rows if ended or no_room or found[row] in self.end_ids}
        )
        return found

    def finish(self, rows: Collection[int]) -> None:
        """These texts grow no more."""
        kept = [place for place, row in enumerate(self.rows) if row not in rows]
        if len(kept) == len(self.rows):
            return
        self.rows = [self.rows[place] for place in kept]
        if not kept:
            return
        places = torch.tensor(kept)
        self._cache.keep(places)
        self._lengths = self._lengths[places]
        places = places.to(self._new.device, non_blocking=True)
        self._new = self._new.index_select(0, places)
        self._seen = None if self._seen is None else self._seen.index_select(0, places)

    def _logits(self) -> Tensor:
        """[B, V], of what follows each text."""
        training = self.model.training
        outputs = self.model.eval()(
            self._new.to(self.model.device, non_blocking=True),
            sequence_lengths=SequenceLengths(self._lengths),
            cache=self._cache,
        )
        self.model.train(training)
        if self._past is not None:
            self._past.ids += self._unwritten
        return outputs.projection.last().logits()

    def _seen_tokens(self) -> Tensor:
        """[B, V] bool, the tokens of each prompt."""
        size = self.model.config.vocab_size
        seen = torch.zeros(len(self._lengths), size, dtype=torch.bool)
        for row, prompt in zip(seen, self._new.split(self._lengths.tolist()), strict=True):
            row[prompt] = True
        return seen.to(self.model.device, non_blocking=True)


def _check_prompt(row: int, length: int, room: int) -> None:
    if not 0 < length <= room:
        raise InputError(f"prompt {row}: found {length} tokens; accepted: 1 to {room}")
