"""ScoredText: computes the logits of a changing text, with a cache of the unchanged beginning."""

from typing import Any

import torch
from torch import Tensor

from trainer.generation.decoding import next_inputs
from trainer.generation.eval_mode import eval_mode, prepare
from trainer.generation.generative_model import GenerativeModel
from trainer.generation.growing_texts import Source
from trainer.models.cache import KeyValueCache, SourceCache


class ScoredText:
    """Computes the logits of one text after another, with a cache of their common prefix."""

    def __init__(self, model: GenerativeModel, source: Source | None = None) -> None:
        """Prepare a model of this package, or one with the interface of transformers' models.

        `source` [1, S] is the input of the encoder, for an encoder-decoder.
        """
        self._model = model
        prepare(model)
        self._ours = hasattr(model, "family_head")
        self._seen = torch.zeros(0, dtype=torch.int64)
        self._source = {} if source is None else source.flat()
        self._first_source = source
        self._cache: Any = None
        if self._ours:
            self._cache = KeyValueCache(1) if source is None else SourceCache(1)
        self._keys_change = self._ours and model.body.keys_depend_on_length

    @torch.no_grad()
    def logits(self, ids: Tensor, count: int) -> Tensor:
        """The logits [count, V] in fp32 after each of the last `count` tokens of ids [n]."""
        known = min(len(self._seen), len(ids) - count)
        same = self._seen[:known].to(ids.device) == ids[:known]
        known = 0 if self._keys_change else int(same.long().cumprod(0).sum())
        new, dropped, self._seen = ids[known:], len(self._seen) - known, ids
        with eval_mode(self._model):
            found = self._own(new, known) if self._ours else self._foreign(new, dropped)
        return found[len(found) - count :].float()

    def _own(self, new: Tensor, known: int) -> Tensor:
        self._cache.cut_back(known)
        lengths = torch.tensor([len(new)])
        inputs = next_inputs(self._model, self._source, new, lengths)
        self._source = {}
        found: Tensor = self._model(**inputs, cache=self._cache).projection.rows()
        return found

    def _foreign(self, new: Tensor, dropped: int) -> Tensor:
        """The logits of the new tokens, from a model with the interface of transformers' models."""
        inputs: dict[str, Any] = {"input_ids": new.unsqueeze(0)}
        if self._first_source is not None:
            read = self._first_source
            inputs = {"input_ids": read.ids, "attention_mask": read.mask.long()}
            inputs["decoder_input_ids"] = new.unsqueeze(0)
        if self._cache is not None and dropped:
            self._cache.crop(-dropped)
        outputs = self._model(**inputs, past_key_values=self._cache, use_cache=True)
        self._cache = outputs.past_key_values
        found: Tensor = outputs.logits[0]
        return found
