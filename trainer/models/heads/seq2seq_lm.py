"""Sequence-to-sequence language modeling: a decoder generates targets from encoded sources."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch import Tensor, nn

from trainer.errors import InputError
from trainer.models.adapters.token_rows import token_matrix
from trainer.models.cache import SourceCache
from trainer.models.config import ModelConfig
from trainer.models.encoding import Encoding
from trainer.models.heads.layers import Seq2SeqHead
from trainer.models.heads.losses import aligned_loss
from trainer.models.heads.projection import LazyLogits, Projection
from trainer.models.input_checks import require_tensors
from trainer.models.inputs import Arguments, Call
from trainer.models.outputs import ModelOutput
from trainer.models.packing import IGNORED, to_device
from trainer.models.pretrained import Given, PretrainedModel
from trainer.models.sequence_lengths import SequenceLengths, host_lengths


@dataclass(repr=False)
class Seq2SeqLMOutput(ModelOutput):
    """The outputs of a sequence-to-sequence model. M is the length of the decoder's rows."""

    loss: Tensor | None = None
    """The mean loss over the labeled tokens, if labels were given"""
    logits: Any = LazyLogits()
    """[B, M, vocab_size] before the softmax, zeros at pads; [T, vocab_size] in a flat call.
    Computed on first access; code that needs only the loss reads `projection` instead."""
    decoder_hidden_states: tuple[Tensor, ...] | None = None
    """The embeddings and every decoder layer's output, [B, M, D]; [T, D] in a flat call"""
    decoder_attentions: tuple[Tensor, ...] | None = None
    """Every decoder layer's attention probabilities [B, heads, M, M]"""
    cross_attentions: tuple[Tensor, ...] | None = None
    """Every decoder layer's attention to the encoder, [B, heads, M, L]"""
    encoder_last_hidden_state: Tensor | None = None
    """[B, L, D], zeros at pads; [T, D] in a flat call"""
    encoder_hidden_states: tuple[Tensor, ...] | None = None
    """The embeddings and every encoder layer's output, shaped like encoder_last_hidden_state"""
    encoder_attentions: tuple[Tensor, ...] | None = None
    """Every encoder layer's attention probabilities [B, heads, L, L]"""

    @property
    def projection(self) -> Projection:
        """The hidden states and output weights, for `trainer.tasks.losses.next_token_loss`."""
        found: Projection = vars(self)["_projection"]
        return found


class Answers(Arguments, total=False):
    """The keyword arguments of `forward` that only this head reads."""

    labels: Tensor | None
    """[B, M], the target tokens; -100 where there is nothing to predict"""
    decoder_input_ids: Tensor | None
    """[B, M], or [T] in a flat call; by default the labels shifted right by one"""
    decoder_target_ids: Tensor | None
    """The target tokens for a call without a loss; the decoder reads them shifted right by one"""
    decoder_attention_mask: Tensor | None
    """[B, M]"""
    decoder_sequence_lengths: Tensor | SequenceLengths | None
    """[B] on the CPU, in a flat call"""
    decoder_dropout_keys: Tensor | None
    """int32, in the shape of decoder_input_ids: the dropout key of each of its tokens"""
    cache: SourceCache | None
    """The first flat call fills the cache. Later flat calls continue the cached sequences; their
    input_ids are the decoder's next tokens
    """


class Seq2SeqLMModel(PretrainedModel):
    """An encoder, and a decoder that scores every vocabulary entry as the next token.

    Logits are [B, M, vocab_size] ([T, vocab_size] in a flat call), before any activation. Unlike in
    a causal language model, labels are aligned with the logits.
    """

    task = "seq2seq_lm"
    class_suffix = "ForSeq2SeqLM"
    kinds = ("encoder_decoder",)
    arguments = Answers
    keys = {"": "lm_head", "bias": "final_logits_bias"}
    peft_task = "SEQ_2_SEQ_LM"
    vocabulary = ("weight", "bias")
    fixed = ("head.bias",)

    if TYPE_CHECKING:

        def __call__(
            self,
            input_ids: Tensor,
            attention_mask: Tensor | None = None,
            **arguments: Unpack[Answers],
        ) -> Seq2SeqLMOutput: ...

    @staticmethod
    def build(config: ModelConfig) -> nn.Module:
        own = not config.tie_word_embeddings
        return Seq2SeqHead(config.hidden_size, config.vocab_size, own_weight=own, bias=True)

    @property
    def tied(self) -> Mapping[str, str]:
        names = self.family_head.tied
        if self.head.weight is None:
            return names
        return {second: first for second, first in names.items() if second != "lm_head.weight"}

    @property
    def substitutes(self) -> Mapping[str, str]:
        names = self.family_head.tied
        return {"lm_head.weight": names["lm_head.weight"]} if self.head.weight is not None else {}

    def arrange(self, call: Call, answers: Given) -> Call:
        named = ("decoder_input_ids", "decoder_target_ids", "decoder_attention_mask")
        require_tensors({name: answers.get(name) for name in named})
        cache = answers.get("cache")
        if cache is not None and cache.seen is not None:
            return replace(call, cache=cache)
        ids, mask = answers.get("decoder_input_ids"), answers.get("decoder_attention_mask")
        lengths, keys = (answers.get(f"decoder_{n}") for n in ("sequence_lengths", "dropout_keys"))
        if call.is_flat:
            _check_lengths(call, lengths)
        if ids is None:
            targets = answers.get("decoder_target_ids")
            targets = answers.get("labels") if targets is None else targets
            if targets is None:
                raise InputError("decoder_input_ids: found None; accepted: the ids, or labels")
            ids = self.prepare_decoder_input_ids_from_labels(targets, lengths)
        if len(ids) != len(call.tokens) and not call.is_flat:
            found, accepted = len(ids), len(call.tokens)
            raise InputError(f"decoder_input_ids: found {found} rows; accepted: {accepted}")
        decoder = Call(ids, mask, sequence_lengths=lengths, dropout_keys=keys, cache=cache)
        return replace(call, decoder=decoder)

    def prepare_decoder_input_ids_from_labels(
        self, labels: Tensor, sequence_lengths: Tensor | SequenceLengths | None = None
    ) -> Tensor:
        """The decoder's inputs for labels [B, M], or [T] with lengths: the labels shifted right.

        Each sequence starts with `start_id`; in families such as mBART, it starts with its last
        label, which is the language code.
        """
        last = self.body.starts_from_last
        pad = self.config.pad_token_id
        start: Tensor | int = self.start_id if not last else _last(labels, sequence_lengths, pad)
        ids = labels.roll(1, -1)
        if sequence_lengths is None:
            ids[..., 0] = start
        else:
            lengths = host_lengths(sequence_lengths)
            ids[to_device(lengths.cumsum(0) - lengths, ids.device)] = start
        return ids.masked_fill(ids == -100, self.start_id if pad is None else pad)

    @property
    def start_id(self) -> int:
        """The decoder's start token. Raises InputError if the config has none."""
        start = self.config.decoder_start_token_id
        start = self.generation_config.get("decoder_start_token_id") if start is None else start
        if start is None:
            raise InputError("model.config: decoder_start_token_id: found None; accepted: an id")
        return int(start)

    @property
    def forced_tokens(self) -> dict[int, int]:
        """Position in generated texts, 0 (first) or -1 (last) -> the token forced there, if any."""
        names = {0: "forced_bos_token_id", -1: "forced_eos_token_id"}
        own = self.generation_config
        found = {n: own.get(name, self.config.known(name)) for n, name in names.items()}
        return {n: token for n, token in found.items() if isinstance(token, int)}

    def new_source_cache(self, num_sequences: int) -> SourceCache:
        """An empty cache for `num_sequences` source texts."""
        return SourceCache(num_sequences)

    def generate(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **settings: Any,
    ) -> Any:
        """Generate from input_ids [B, L]; returns the decoder's tokens [N, n].

        Rows that end earlier are padded. `settings` are those of transformers (`HubSettings` in
        `trainer.generation.hub_settings`), with the defaults of generation_config.json. With
        return_dict_in_generate, the result is a `GenerateOutput`.
        """
        from trainer.generation.model_generate import generate_from_tensors

        if "inputs" in settings:
            input_ids = settings.pop("inputs")
        return generate_from_tensors(self, input_ids, attention_mask, settings)

    def compute_transition_scores(
        self,
        sequences: Tensor,
        scores: tuple[Tensor, ...],
        beam_indices: Tensor | None = None,
        normalize_logits: bool = False,
    ) -> Tensor:
        """[N, t], the scores of the generated tokens: see `transition_scores`."""
        from trainer.generation.transition_scores import transition_scores

        return transition_scores(sequences, scores, beam_indices, normalize_logits)

    def respond(self, encoding: Encoding, answers: Given) -> Seq2SeqLMOutput:
        labels, encoded = answers.get("labels"), encoding.encoded
        hidden, weight = self.head(encoded.tokens, self.output_weight)
        projection = Projection(hidden, weight, encoding.layout, shifts=False)
        return Seq2SeqLMOutput(
            loss=None if labels is None else aligned_loss(projection, labels),
            logits=projection,
            **_traces(encoding),
        )

    @property
    def output_weight(self) -> Tensor:
        """[vocab_size, D], the output weights, which may be the token embeddings."""
        own = self.head.weight is not None
        return token_matrix(self.head if own else self.get_input_embeddings())


def _last(labels: Tensor, lengths: Tensor | SequenceLengths | None, pad: int | None) -> Tensor:
    """[B], the last label of each row (pads excluded), or of each sequence of a flat call."""
    if lengths is not None:
        return labels[to_device(host_lengths(lengths).cumsum(0) - 1, labels.device)]
    columns = torch.arange(labels.shape[-1], device=labels.device)
    counted = (labels != IGNORED) & (labels != (IGNORED if pad is None else pad))
    last = (counted * columns).argmax(-1, keepdim=True)
    return labels.gather(-1, last).squeeze(-1)


def _traces(encoding: Encoding) -> dict[str, Any]:
    """The requested hidden states and attention probabilities of encoder and decoder."""
    found: dict[str, Any] = {f"decoder_{n}": value for n, value in encoding.traces.items()}
    encoder, layout = encoding.encoded.encoder, encoding.encoder_layout
    if encoder is None or layout is None:
        return found
    source = Encoding(encoder, layout, None)
    found |= {f"encoder_{n}": value for n, value in source.traces.items()}
    found["encoder_last_hidden_state"] = source.last_hidden_state
    if (crossed := encoding.encoded.cross_attentions) is not None:
        unpack = encoding.layout.unpack_attentions
        found["cross_attentions"] = tuple(unpack(weights, layout) for weights in crossed)
    return found


def _check_lengths(call: Call, lengths: Tensor | SequenceLengths | None) -> None:
    """Raise InputError unless encoder and decoder have the same number of sequences."""
    assert call.sequence_lengths is not None
    wanted = len(host_lengths(call.sequence_lengths))
    found = None if lengths is None else len(host_lengths(lengths))
    if found != wanted:
        raise InputError(
            f"decoder_sequence_lengths: found {found} sequences; accepted: {wanted}, as the "
            "encoder's"
        )


HEAD = Seq2SeqLMModel
