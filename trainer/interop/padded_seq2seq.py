"""PaddedSeq2Seq: a transformers encoder-decoder, called with flat batches."""

import logging
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from trainer.errors import InputError
from trainer.interop.foreign_batches import padded
from trainer.interop.foreign_source_cache import ForeignSourceCache
from trainer.interop.padded_model import PaddedModel
from trainer.interop.seq2seq_seams import (
    decode,
    distinct_ids,
    encode,
    find_seams,
    keep_all_layers,
    output_bias,
    unreached,
)
from trainer.models.heads.projection import Projection
from trainer.models.heads.seq2seq_lm import Seq2SeqLMOutput
from trainer.models.packing import Layout, to_device
from trainer.models.sequence_lengths import SequenceLengths, host_lengths

log = logging.getLogger("trainer")
FORCED = {0: "forced_bos_token_id", -1: "forced_eos_token_id"}
POSITIONS = (
    *("max_position_embeddings", "max_encoder_position_embeddings"),
    "max_decoder_position_embeddings",
)


class PaddedSeq2Seq(PaddedModel):
    """A transformers encoder-decoder. Both sides of a batch are padded.

    Its encoder and decoder are called separately from its output weights, so that the loss does not
    need the logits of a whole batch.
    """

    def __init__(self, inner: nn.Module) -> None:
        """`inner` is loaded by AutoModelForSeq2SeqLM. Raises InputError if it is unsupported."""
        super().__init__(inner, "seq2seq_lm")
        if keep_all_layers(self.inner):
            log.warning("%s: LayerDrop is off: no layers are left out at random", self.architecture)
        for name in unreached(self.inner):
            self.inner.get_parameter(name).requires_grad_(False)
        self.fixed = tuple(n for n, p in self.named_parameters() if not p.requires_grad)  # type: ignore[misc]
        self._seams = find_seams(inner)

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor,
        sequence_lengths: Tensor | SequenceLengths,
        decoder_input_ids: Tensor | None = None,
        decoder_sequence_lengths: Tensor | SequenceLengths | None = None,
        decoder_target_ids: Tensor | None = None,
        dropout_keys: Tensor | None = None,
        decoder_dropout_keys: Tensor | None = None,
        cache: ForeignSourceCache | None = None,
    ) -> Seq2SeqLMOutput:
        """Compute the logits for flat encoder tokens [T] with lengths [B] and decoder tokens [t].

        By default the decoder reads its targets [t] shifted right by one. With a cache of
        `new_source_cache`, later calls pass the decoder's next tokens as `input_ids`.
        """
        layout = Layout(host_lengths(sequence_lengths), input_ids.device)
        if cache is not None and cache.states is not None:
            return self._output(cache.extend(self._decode, input_ids, layout.lengths), layout)
        assert decoder_sequence_lengths is not None
        written = Layout(host_lengths(decoder_sequence_lengths), input_ids.device)
        ids = decoder_input_ids
        if ids is None:
            assert decoder_target_ids is not None
            ids = self._shifted(decoder_target_ids, written.lengths)
        source = padded(input_ids, layout, self._pad, ())
        with self._seeded(dropout_keys):
            seen = source.inputs["attention_mask"]
            states = encode(self.inner, source.inputs["input_ids"], seen)
            if cache is not None:
                cache.begin(states, seen)
                return self._output(cache.extend(self._decode, ids, written.lengths), written)
            target = padded(ids, written, self._pad, ())
            mask = target.inputs["attention_mask"]
            hidden = self._decode(target.inputs["input_ids"], seen, states, attention_mask=mask)
        return self._output(target.rows(hidden), written)

    @property
    def longest(self) -> int | None:
        """The maximum length for which both sides have positions; None if unknown or unlimited."""
        found = [getattr(self.config, name, None) for name in POSITIONS]
        known = [number for number in found if isinstance(number, int) and number > 0]
        return min(known, default=None)

    @property
    def start_id(self) -> int:
        """The first token of generated texts. Raises InputError if the configs name none."""
        for name in ("decoder_start_token_id", "bos_token_id"):
            if isinstance(start := self._told(name), int):
                return start
        raise InputError("model.config: decoder_start_token_id: found None; accepted: an id")

    @property
    def forced_tokens(self) -> dict[int, int]:
        """The forced first (0) and last (-1) tokens of generated texts, if any."""
        found = {index: self._told(name) for index, name in FORCED.items()}
        return {index: token for index, token in found.items() if isinstance(token, int)}

    def new_source_cache(self, num_sequences: int) -> ForeignSourceCache:
        """A cache for the texts generated from this number of sources."""
        return ForeignSourceCache(num_sequences, self._cache_works)

    def _told(self, name: str) -> object:
        """An entry of generation_config.json, else of config.json."""
        found = getattr(self.inner.generation_config, name, None)
        return getattr(self.config, name, None) if found is None else found

    def _shifted(self, targets: Tensor, lengths: Tensor) -> Tensor:
        """[t], each target's tokens shifted right by one."""
        ids, starts = targets.roll(1), to_device(lengths.cumsum(0) - lengths, targets.device)
        if self._seams.start is None:
            ids[starts] = targets[to_device(lengths.cumsum(0) - 1, targets.device)]
        else:
            ids[starts] = self._seams.start
        return ids

    def _decode(self, ids: Tensor, seen: Tensor, states: Tensor, **options: object) -> Tensor:
        return decode(self.inner, ids, seen, states, **options)

    def _output(self, hidden: Tensor, layout: Layout) -> Seq2SeqLMOutput:
        if self._seams.scale != 1.0:
            hidden = hidden * self._seams.scale
        bias = output_bias(self.inner)
        projection = Projection(hidden, self.output_weight, layout, bias, shifts=False)
        return Seq2SeqLMOutput(logits=projection)

    @cached_property
    def _cache_works(self) -> bool:
        """Whether transformers' cache gives about the same outputs as recomputing the texts."""
        was_training = self.training
        self.eval()
        works = self._cache_agrees()
        self.train(was_training)
        if not works:
            text = "%s: no cache of keys and values: each new token computes the whole text again"
            log.warning(text, self.architecture)
        return works

    def _cache_agrees(self) -> bool:
        try:
            wanted, found = (
                self._extended_by_one(ForeignSourceCache(2, has_past)) for has_past in (False, True)
            )
        except (TypeError, AttributeError, ValueError, RuntimeError):
            return False
        return float((found - wanted).norm()) <= 1e-2 * float(wanted.norm())

    @torch.no_grad()
    def _extended_by_one(self, cache: ForeignSourceCache) -> Tensor:
        """The logits of two texts with 2 tokens each, and of one more token after each text.

        The two texts are swapped before the second call, which uses the cache.
        """
        ids, lengths = distinct_ids(self.config, 8).to(self.device), torch.tensor([5, 3])
        options: dict[str, Any] = {
            "decoder_input_ids": ids[:4], "decoder_sequence_lengths": torch.tensor([2, 2]),
        }  # fmt: skip
        first = self(ids, lengths, **options, cache=cache).projection.rows()
        cache.keep(torch.tensor([1, 0]))
        after = self(ids[4:6], torch.tensor([1, 1]), cache=cache).projection.rows()
        return torch.cat((first, after))
