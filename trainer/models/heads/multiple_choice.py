"""Multiple choice: one score for each of a question's choices.

Dimensions: B questions; choices are padded to L tokens.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Unpack

from torch import Tensor, nn

from trainer.errors import InputError
from trainer.foreign.counts import checked_count
from trainer.models.config import ModelConfig
from trainer.models.encoding import Encoding
from trainer.models.heads.layers import ClassificationHead, classifier_dropout
from trainer.models.heads.losses import class_loss
from trainer.models.inputs import Arguments, Call
from trainer.models.outputs import ModelOutput
from trainer.models.pretrained import Given, PretrainedModel


@dataclass
class MultipleChoiceModelOutput(ModelOutput):
    """The outputs of a multiple choice model; S is the number of choices of all questions."""

    loss: Tensor | None = None
    """The mean loss over the batch, if labels were given"""
    logits: Tensor | None = None
    """[B, choices] before the softmax; [S] in a flat call without num_choices"""
    hidden_states: tuple[Tensor, ...] | None = None
    """As in `BaseModelOutput`, a row for each of the S sequences"""
    attentions: tuple[Tensor, ...] | None = None
    """As in `BaseModelOutput`, a row for each of the S sequences"""


class Answers(Arguments, total=False):
    """The keyword arguments of `forward` that only this head reads."""

    labels: Tensor | None
    """[B], the index of the right choice for each question"""
    num_choices: int | None
    """The number of choices of each question in a flat call"""


class MultipleChoiceModel(PretrainedModel):
    """A body that computes a score for each choice of a question.

    A padded call is [B, choices, L] and its logits [B, choices], before any activation: softmax
    over the choices turns them into probabilities. In a flat call every choice is a sequence, the
    choices of a question are adjacent, and `num_choices` is their number per question. Leave it out
    if the number varies: logits are then [S], one per sequence.
    """

    task = "multiple_choice"
    class_suffix = "ForMultipleChoice"
    kinds = ("encoder",)
    arguments = Answers
    keys = {"classifier": "classifier"}
    reads_first_token = True

    if TYPE_CHECKING:

        def __call__(
            self,
            input_ids: Tensor,
            attention_mask: Tensor | None = None,
            **arguments: Unpack[Answers],
        ) -> MultipleChoiceModelOutput: ...

    @staticmethod
    def build(config: ModelConfig) -> nn.Module:
        return ClassificationHead(config.hidden_size, 1, dropout=classifier_dropout(config))

    def arrange(self, call: Call, answers: Given) -> Call:
        """Reshape the inputs of a padded call, [B, choices, L] -> [B x choices, L]."""
        if call.is_flat:
            given = answers.get("num_choices")
            answers["num_choices"] = None if given is None else checked_count("num_choices", given)
            return call
        _check_choices_axis(call.tokens, answers.get("num_choices"))
        answers["num_choices"] = call.tokens.shape[1]
        embeds = call.inputs_embeds
        return replace(
            call,
            input_ids=_rows(call.input_ids),
            inputs_embeds=None if embeds is None else embeds.flatten(0, 1),
            attention_mask=_rows(call.attention_mask),
            token_type_ids=_rows(call.token_type_ids),
            position_ids=_rows(call.position_ids),
            dropout_keys=_rows(call.dropout_keys),
        )

    def respond(self, encoding: Encoding, answers: Given) -> MultipleChoiceModelOutput:
        labels, num_choices = answers.get("labels"), answers.get("num_choices")
        logits = self.head(encoding.encoded.pooled, encoding.sequence_keys).squeeze(-1)
        if num_choices is not None:
            logits = _by_question(logits, num_choices)
        elif labels is not None:
            raise InputError(
                "num_choices: missing; accepted: the number of choices of each question"
            )
        return MultipleChoiceModelOutput(
            loss=None if labels is None else class_loss(logits, labels),
            logits=logits,
            **encoding.traces,
        )


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
    """[B, choices, L] -> [B x choices, L]; tensors with fewer axes are returned unchanged."""
    return x if x is None or x.dim() < 3 else x.flatten(0, 1)


def _by_question(logits: Tensor, num_choices: int) -> Tensor:
    """[S] -> [S / num_choices, num_choices]"""
    sequences = logits.shape[0]
    if sequences % num_choices:
        raise InputError(
            f"num_choices: found {num_choices}; accepted: a divisor of the {sequences} sequences"
        )
    return logits.view(-1, num_choices)


HEAD = MultipleChoiceModel
