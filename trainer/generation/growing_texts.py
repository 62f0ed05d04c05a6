"""GrowingTexts: a padded batch of texts with a cache, for token-by-token generation."""

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.generation.decoding import next_inputs
from trainer.generation.eval_mode import eval_mode, prepare
from trainer.generation.generative_model import GenerativeModel
from trainer.models.cache import TextCache


@dataclass(frozen=True)
class Source:
    """The input of the encoder, for an encoder-decoder."""

    ids: Tensor
    """The token ids [B, S]."""
    mask: Tensor
    """Whether each position is a token, not a pad, [B, S] bool."""

    def flat(self) -> dict[str, Tensor]:
        """The concatenated ids without pads, and the lengths of the texts on the CPU."""
        return {"input_ids": self.ids[self.mask], "lengths": self.mask.sum(1).cpu()}


class GrowingTexts:
    """N texts as padded ids [N, n], and the cached keys and values of their tokens."""

    def __init__(
        self,
        model: GenerativeModel,
        ids: Tensor,
        mask: Tensor,
        copies: int,
        source: Source | None = None,
    ) -> None:
        """Start `copies` texts from each prompt, in adjacent rows; N = B x copies.

        The prompts are `ids` [B, L]; `mask` [B, L] bool is False at pads.
        For an encoder-decoder, `source` has the B inputs of the encoder, and `ids` are the first
        tokens of the decoder.
        """
        self.ids = ids.repeat_interleave(copies, 0)
        self._model = model
        prepare(model)
        self._copies = copies
        self._new = ids[mask]
        self._lengths = mask.sum(1).cpu()
        self._shared = int(self._lengths.min())
        self._source = {} if source is None else source.flat()
        self._cache: TextCache = (
            model.new_cache(len(ids)) if source is None else model.new_source_cache(len(ids))
        )

    @torch.no_grad()
    def logits(self) -> Tensor:
        """The logits [N, V] in fp32 of the next tokens; call this once for each token."""
        inputs = next_inputs(self._model, self._source, self._new, self._lengths)
        with eval_mode(self._model):
            outputs = self._model(**inputs, cache=self._cache)
        self._source = {}
        found: Tensor = outputs.projection.last().logits().float()
        if self._copies > 1:
            self._cache.batch_repeat_interleave(self._copies)
            found, self._copies = found.repeat_interleave(self._copies, 0), 1
        return found

    def append(self, tokens: Tensor, sources: Tensor | None = None) -> None:
        """Append a token to each text, from tokens [N].

        With `sources` [N], row i first becomes a copy of the text in row sources[i], which must
        have the same prompt.
        """
        if sources is not None:
            self._cache.reorder_continuations(sources, self._shared)
            self.ids = self.ids[sources]
        self.ids = torch.cat((self.ids, tokens.unsqueeze(1)), 1)
        self._new = tokens
        self._lengths = torch.ones(len(tokens), dtype=torch.int64)
