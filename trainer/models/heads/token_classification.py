"""Token classification: a label for each token."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Unpack

from torch import Tensor, nn

from trainer.models.config import ModelConfig
from trainer.models.encoding import Encoding
from trainer.models.heads.layers import TokenHead, classifier_dropout
from trainer.models.heads.losses import token_loss
from trainer.models.inputs import Arguments
from trainer.models.outputs import ModelOutput
from trainer.models.pretrained import Given, PretrainedModel


@dataclass
class TokenClassifierOutput(ModelOutput):
    """The outputs of a token classification model."""

    loss: Tensor | None = None
    """The mean loss over the labeled tokens, if labels were given"""
    logits: Tensor | None = None
    """[B, L, num_labels] before the softmax, zeros at pads; [T, num_labels] in a flat call"""
    hidden_states: tuple[Tensor, ...] | None = None
    """As in `BaseModelOutput`"""
    attentions: tuple[Tensor, ...] | None = None
    """As in `BaseModelOutput`"""


class Answers(Arguments, total=False):
    """The keyword arguments of `forward` that only this head reads."""

    labels: Tensor | None
    """Class ids, in the shape of input_ids; -100 for tokens without a label"""
    num_items_in_batch: Tensor | int | None
    """The divisor of the summed losses, in place of the number of labeled tokens"""


class TokenClassificationModel(PretrainedModel):
    """A body with one linear classifier over every token.

    Logits are [B, L, num_labels] ([T, num_labels] in a flat call), before any activation: softmax
    over the last axis turns them into probabilities. The logits of pads are zeros.
    """

    task = "token_classification"
    class_suffix = "ForTokenClassification"
    kinds = ("encoder", "decoder")
    arguments = Answers
    accepts_loss_kwargs = True
    keys = {"classifier": "classifier"}
    peft_task = "TOKEN_CLS"

    if TYPE_CHECKING:

        def __call__(
            self,
            input_ids: Tensor,
            attention_mask: Tensor | None = None,
            **arguments: Unpack[Answers],
        ) -> TokenClassifierOutput: ...

    @staticmethod
    def build(config: ModelConfig) -> nn.Module:
        dropout = classifier_dropout(config)
        return TokenHead(config.hidden_size, config.num_labels, dropout=dropout)

    def respond(self, encoding: Encoding, answers: Given) -> TokenClassifierOutput:
        logits, labels = (
            self.head(encoding.encoded.tokens, encoding.token_keys),
            answers.get("labels"),
        )
        return TokenClassifierOutput(
            loss=None
            if labels is None
            else token_loss(logits, labels, encoding.layout, answers.get("num_items_in_batch")),
            logits=encoding.layout.unpack(logits),
            **encoding.traces,
        )


HEAD = TokenClassificationModel
