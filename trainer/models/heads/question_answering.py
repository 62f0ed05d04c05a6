"""Extractive question answering: the start and the end of the answer in the text.

Dimensions: B sequences, padded to L tokens or with T tokens in total.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Unpack

from torch import Tensor, nn

from trainer.errors import InputError
from trainer.models.config import ModelConfig
from trainer.models.encoding import Encoding
from trainer.models.heads.layers import TokenHead
from trainer.models.heads.losses import span_loss
from trainer.models.inputs import Arguments, Call
from trainer.models.outputs import ModelOutput
from trainer.models.pretrained import Given, PretrainedModel


@dataclass
class QuestionAnsweringModelOutput(ModelOutput):
    """The outputs of a question answering model."""

    loss: Tensor | None = None
    """The average of the mean losses of starts and of ends, if both positions were given"""
    start_logits: Tensor | None = None
    """[B, L] before the softmax over a sequence, zeros at pad positions; [T] in a flat call"""
    end_logits: Tensor | None = None
    """In the shape of start_logits"""
    hidden_states: tuple[Tensor, ...] | None = None
    """As in `BaseModelOutput`"""
    attentions: tuple[Tensor, ...] | None = None
    """As in `BaseModelOutput`"""


class Answers(Arguments, total=False):
    """The keyword arguments of `forward` that only this head reads.

    Positions of -100 and beyond the input are ignored in the loss. In a flat call positions count
    from 0 in each sequence.
    """

    start_positions: Tensor | None
    """[B], the columns where the answers start"""
    end_positions: Tensor | None
    """[B], the columns where the answers end"""


class QuestionAnsweringModel(PretrainedModel):
    """A body that scores every token as the start and as the end of the answer.

    The logits of starts and ends are [B, L] each ([T] in a flat call), before any activation: a
    softmax over a sequence's tokens turns them into probabilities. The logits of pads are zero:
    exclude them from the softmax.
    """

    task = "question_answering"
    class_suffix = "ForQuestionAnswering"
    kinds = ("encoder",)
    arguments = Answers
    labels = ("start_positions", "end_positions")
    keys = {"classifier": "qa_outputs"}
    peft_task = "QUESTION_ANS"

    if TYPE_CHECKING:

        def __call__(
            self,
            input_ids: Tensor,
            attention_mask: Tensor | None = None,
            **arguments: Unpack[Answers],
        ) -> QuestionAnsweringModelOutput: ...

    @staticmethod
    def check_config(config: ModelConfig) -> None:
        if config.num_labels != 2:
            raise InputError(
                f"model.config: num_labels: found {config.num_labels}; accepted: 2 for question "
                "answering (the start and the end of a span)"
            )

    @staticmethod
    def build(config: ModelConfig) -> nn.Module:
        return TokenHead(config.hidden_size, 2, dropout=0.0)

    def arrange(self, call: Call, answers: Given) -> Call:
        missing = [name for name in self.labels if answers.get(name) is None]
        if len(missing) == 1:
            raise InputError(f"{missing[0]}: missing; accepted: both positions, or none")
        return call

    def respond(self, encoding: Encoding, answers: Given) -> QuestionAnsweringModelOutput:
        logits = self.head(encoding.encoded.tokens, encoding.token_keys)
        start, end, loss = answers.get("start_positions"), answers.get("end_positions"), None
        if start is not None and end is not None:
            loss = span_loss(logits, start, end, encoding.layout)
        start_logits, end_logits = encoding.layout.unpack(logits).unbind(-1)
        return QuestionAnsweringModelOutput(
            loss=loss, start_logits=start_logits, end_logits=end_logits, **encoding.traces
        )


HEAD = QuestionAnsweringModel
