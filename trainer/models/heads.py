"""Models for tasks: the bare one, and one for each head that a body may have."""

import logging
from typing import Any

import torch
from torch import Tensor

from trainer.errors import InputError
from trainer.models.cache import KeyValueCache
from trainer.models.config import ModelConfig
from trainer.models.generation_config import recommended
from trainer.models.head_losses import (
    class_loss,
    classification_loss,
    span_loss,
    successor_loss,
    token_loss,
)
from trainer.models.outputs import (
    BaseModelOutput,
    CausalLMOutput,
    MaskedLMOutput,
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from trainer.models.pretrained import PretrainedModel
from trainer.models.projection import Projection
from trainer.models.sequence_lengths import SequenceLengths

log = logging.getLogger("trainer")


class BaseModel(PretrainedModel):
    """The bare encoder: token vectors, and one vector for each sequence if it has a pooler."""

    task = "base"
    class_suffix = "Model"

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        return_dict: bool = True,
        *,
        sequence_lengths: Tensor | SequenceLengths | None = None,
        dropout_keys: Tensor | None = None,
    ) -> BaseModelOutput | tuple[Any, ...]:
        """Padded: ids and mask [B, L]. Flat: ids [T] and `sequence_lengths` [B] on the CPU."""
        encoding = self.encode(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            sequence_lengths,
            dropout_keys,
            output_hidden_states,
            output_attentions,
        )
        outputs = BaseModelOutput(
            last_hidden_state=encoding.last_hidden_state,
            pooler_output=None if self.body.pooler is None else encoding.encoded.pooled,
            **encoding.traces,
        )
        return outputs if return_dict else outputs.to_tuple()


class SequenceClassificationModel(PretrainedModel):
    """An encoder with one linear classifier or regressor over a vector of the whole sequence.

    Logits are [B, num_labels], before any activation: softmax (one label), sigmoid (several) or
    nothing (regression) turns them into the answer.
    """

    task = "sequence_classification"
    class_suffix = "ForSequenceClassification"
    head_in_fp32 = True
    reads_first_token = True

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        return_dict: bool = True,
        *,
        sequence_lengths: Tensor | SequenceLengths | None = None,
        dropout_keys: Tensor | None = None,
    ) -> SequenceClassifierOutput | tuple[Any, ...]:
        """As the bare model's; labels are [B] of ids or numbers, or [B, num_labels].

        A decoder called without a mask takes pads at the ends of rows for what they are, by their
        id, as transformers does.
        """
        padded = attention_mask is None and sequence_lengths is None and input_ids.ndim == 2
        if padded and self.body.pools_last_token and self.config.pad_token_id is not None:
            attention_mask = _up_to_last(input_ids, self.config.pad_token_id)
        encoding = self.encode(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            sequence_lengths,
            dropout_keys,
            output_hidden_states,
            output_attentions,
        )
        pooled = encoding.encoded.pooled
        with torch.autocast(pooled.device.type, enabled=False):  # a few rows: keep their digits
            numbers = next(self.head.parameters()).dtype
            logits = self.head(pooled.to(numbers), encoding.sequence_keys)
        loss = None if labels is None else classification_loss(logits, labels, self.config)
        outputs = SequenceClassifierOutput(loss=loss, logits=logits, **encoding.traces)
        return outputs if return_dict else outputs.to_tuple()


def _up_to_last(input_ids: Tensor, pad: int) -> Tensor:
    """[B, L], 1 up to each row's last token that is no pad; all pads: its first alone."""
    columns = torch.arange(input_ids.shape[1], device=input_ids.device)
    last = ((input_ids != pad) * columns).amax(1, keepdim=True)
    return (columns <= last).long()


class TokenClassificationModel(PretrainedModel):
    """An encoder with one linear classifier over every token.

    Logits are [B, L, num_labels] ([T, num_labels] in a flat call), before any activation: softmax
    over the last axis turns them into probabilities. Pads have zeros.
    """

    task = "token_classification"
    class_suffix = "ForTokenClassification"

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        return_dict: bool = True,
        *,
        sequence_lengths: Tensor | SequenceLengths | None = None,
        dropout_keys: Tensor | None = None,
    ) -> TokenClassifierOutput | tuple[Any, ...]:
        """As the bare model's; labels are ids shaped as input_ids, -100 where there is none."""
        encoding = self.encode(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            sequence_lengths,
            dropout_keys,
            output_hidden_states,
            output_attentions,
        )
        logits = self.head(encoding.encoded.tokens, encoding.token_keys)
        outputs = TokenClassifierOutput(
            loss=None if labels is None else token_loss(logits, labels, encoding.layout),
            logits=encoding.layout.unpack(logits),
            **encoding.traces,
        )
        return outputs if return_dict else outputs.to_tuple()


class QuestionAnsweringModel(PretrainedModel):
    """An encoder that scores every token as the start and as the end of the answer.

    The logits of starts and ends are [B, L] each ([T] in a flat call), before any activation: a
    softmax over a sequence's tokens turns them into probabilities. Pads have zeros, which are no
    tokens: leave them out of the softmax.
    """

    task = "question_answering"
    class_suffix = "ForQuestionAnswering"

    def __init__(self, config: ModelConfig) -> None:
        if config.num_labels != 2:
            raise InputError(
                f"model.config: num_labels: found {config.num_labels}; accepted: 2 for question "
                "answering (the start and the end of a span)"
            )
        super().__init__(config)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        return_dict: bool = True,
        *,
        sequence_lengths: Tensor | SequenceLengths | None = None,
        dropout_keys: Tensor | None = None,
    ) -> QuestionAnsweringModelOutput | tuple[Any, ...]:
        """As the bare model's; positions are [B], the columns where the answer starts and ends.

        Positions beyond the input, and -100, count nothing in the loss. In a flat call positions
        count from 0 in each sequence.
        """
        if (start_positions is None) != (end_positions is None):
            missing = "start_positions" if start_positions is None else "end_positions"
            raise InputError(f"{missing}: missing; accepted: both positions, or none")
        encoding = self.encode(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            sequence_lengths,
            dropout_keys,
            output_hidden_states,
            output_attentions,
        )
        logits = self.head(encoding.encoded.tokens, encoding.token_keys)
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = span_loss(logits, start_positions, end_positions, encoding.layout)
        start_logits, end_logits = encoding.layout.unpack(logits).unbind(-1)
        outputs = QuestionAnsweringModelOutput(
            loss=loss, start_logits=start_logits, end_logits=end_logits, **encoding.traces
        )
        return outputs if return_dict else outputs.to_tuple()


class MaskedLMModel(PretrainedModel):
    """An encoder that scores every word of the vocabulary at every token (Devlin et al., 2018).

    Logits are [B, L, vocab_size] ([T, vocab_size] in a flat call), before any activation: softmax
    over the last axis turns them into probabilities. Pads have zeros. The output weights are the
    token embeddings.
    """

    task = "masked_lm"
    class_suffix = "ForMaskedLM"

    def __init__(self, config: ModelConfig) -> None:
        if not config.tie_word_embeddings:
            raise InputError(
                "model.config: tie_word_embeddings: found False; accepted: True for masked "
                "language modelling (its output weights are the token embeddings)"
            )
        super().__init__(config)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        return_dict: bool = True,
        *,
        sequence_lengths: Tensor | SequenceLengths | None = None,
        dropout_keys: Tensor | None = None,
    ) -> MaskedLMOutput | tuple[Any, ...]:
        """As the bare model's; labels are ids shaped as input_ids, -100 where nothing is asked."""
        encoding = self.encode(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            sequence_lengths,
            dropout_keys,
            output_hidden_states,
            output_attentions,
        )
        logits = self.head(encoding.encoded.tokens, self.get_input_embeddings().weight)
        outputs = MaskedLMOutput(
            loss=None if labels is None else token_loss(logits, labels, encoding.layout),
            logits=encoding.layout.unpack(logits),
            **encoding.traces,
        )
        return outputs if return_dict else outputs.to_tuple()


class CausalLMModel(PretrainedModel):
    """A decoder that scores every word of the vocabulary as the next one, at every token.

    Logits are [B, L, vocab_size] ([T, vocab_size] in a flat call), before any activation: softmax
    over the last axis turns them into probabilities. Pads have zeros. They are computed when they
    are first read; the loss does not need them.
    """

    task = "causal_lm"
    class_suffix = "ForCausalLM"

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        return_dict: bool = True,
        *,
        sequence_lengths: Tensor | SequenceLengths | None = None,
        dropout_keys: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> CausalLMOutput | tuple[Any, ...]:
        """As the bare model's; labels are input_ids, -100 where nothing is asked: not shifted.

        With `cache`, a flat call continues the sequences that it holds, which it adds to; then
        there are no attentions.
        """
        if cache is not None and output_attentions:
            raise InputError("output_attentions: found True beside a cache; accepted: one of them")
        encoding = self.encode(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            sequence_lengths,
            dropout_keys,
            output_hidden_states,
            output_attentions,
            cache,
        )
        projection = Projection(encoding.encoded.tokens, self.output_weight, encoding.layout)
        outputs = CausalLMOutput(
            loss=None if labels is None else successor_loss(projection, labels),
            logits=projection,
            **encoding.traces,
        )
        return outputs if return_dict else outputs.to_tuple()

    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        do_sample: bool | None = None,
        **settings: Any,
    ) -> Tensor:
        """input_ids [B, L] and what follows each row, [B, L + n], as in transformers.

        Rows that end earlier go on in pads. `settings` are those of `GenerationSettings`; what is
        not given is as generation_config.json says. Without `do_sample` the most probable token is
        taken. `trainer.generation` works on texts.
        """
        from trainer.generation.padded import continued

        drawn = self.generation_config.get("do_sample") if do_sample is None else do_sample
        if not drawn:
            if settings.get("temperature"):
                log.warning("generate: temperature changes nothing without do_sample=True")
            settings = {**settings, "temperature": 0.0}
        own = recommended(self, bool(drawn))
        return continued(self, input_ids, attention_mask, {**own, **settings})

    @property
    def output_weight(self) -> Tensor:
        """[vocab_size, D]: the head's own, or the token embeddings where they are tied."""
        return self.get_input_embeddings().weight if self.head is None else self.head.weight


class MultipleChoiceModel(PretrainedModel):
    """An encoder that gives each choice of a question one number.

    A padded call is [B, choices, L] and its logits [B, choices], before any activation: softmax
    over the choices turns them into probabilities. In a flat call every choice is a sequence, the
    choices of a question side by side; `num_choices` tells how many a question has. Without it
    (questions may differ in it) logits are [S], one for each of the S sequences.
    """

    task = "multiple_choice"
    class_suffix = "ForMultipleChoice"
    reads_first_token = True

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        return_dict: bool = True,
        *,
        num_choices: int | None = None,
        sequence_lengths: Tensor | SequenceLengths | None = None,
        dropout_keys: Tensor | None = None,
    ) -> MultipleChoiceModelOutput | tuple[Any, ...]:
        """As the bare model's, with an axis for the choices; labels are [B], the right choices."""
        if sequence_lengths is None:
            _check_choices_axis(input_ids, num_choices)
            num_choices = input_ids.shape[1]
            padded = (attention_mask, token_type_ids, position_ids, dropout_keys)
            attention_mask, token_type_ids, position_ids, dropout_keys = (
                _rows(tensor) for tensor in padded
            )
            input_ids = input_ids.flatten(0, 1)
        encoding = self.encode(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            sequence_lengths,
            dropout_keys,
            output_hidden_states,
            output_attentions,
        )
        logits = self.head(encoding.encoded.pooled, encoding.sequence_keys).squeeze(-1)
        if num_choices is not None:
            logits = _by_question(logits, num_choices)
        elif labels is not None:
            raise InputError("num_choices: missing; accepted: how many choices a question has")
        outputs = MultipleChoiceModelOutput(
            loss=None if labels is None else class_loss(logits, labels),
            logits=logits,
            **encoding.traces,
        )
        return outputs if return_dict else outputs.to_tuple()


def _check_choices_axis(input_ids: Tensor, num_choices: int | None) -> None:
    if input_ids.dim() != 3:
        raise InputError(
            f"input_ids: found shape {tuple(input_ids.shape)}; accepted: [batch, choices, length]"
        )
    if num_choices not in (None, input_ids.shape[1]):
        raise InputError(
            f"num_choices: found {num_choices}; accepted: {input_ids.shape[1]}, as in input_ids"
        )


def _rows(x: Tensor | None) -> Tensor | None:
    """[B, choices, L] -> [B x choices, L]; fewer axes stay, to be broadcast or refused."""
    return x if x is None or x.dim() < 3 else x.flatten(0, 1)


def _by_question(logits: Tensor, num_choices: int) -> Tensor:
    """[S] -> [S / num_choices, num_choices]"""
    if num_choices < 1 or len(logits) % num_choices:
        raise InputError(
            f"num_choices: found {num_choices}; accepted: a divisor of the {len(logits)} sequences"
        )
    return logits.view(-1, num_choices)
