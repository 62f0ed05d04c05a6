"""Sequence classification: one label, several labels or a number for each sequence.

Dimensions: B sequences, padded to L tokens.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Unpack

import torch
from torch import Tensor, nn

from trainer.models.config import ModelConfig
from trainer.models.encoding import Encoding
from trainer.models.heads.layers import ClassificationHead, classifier_dropout
from trainer.models.heads.losses import classification_loss
from trainer.models.inputs import Arguments, Call
from trainer.models.outputs import ModelOutput
from trainer.models.pretrained import Given, PretrainedModel


@dataclass
class SequenceClassifierOutput(ModelOutput):
    """The outputs of a sequence classification model."""

    loss: Tensor | None = None
    """The mean loss over the batch, if labels were given"""
    logits: Tensor | None = None
    """[B, num_labels], before the activation"""
    hidden_states: tuple[Tensor, ...] | None = None
    """As in `BaseModelOutput`"""
    attentions: tuple[Tensor, ...] | None = None
    """As in `BaseModelOutput`"""


class Answers(Arguments, total=False):
    """The keyword arguments of `forward` that only this head reads."""

    labels: Tensor | None
    """[B] of class ids or numbers, or [B, num_labels]"""


class SequenceClassificationModel(PretrainedModel):
    """A body and one linear layer, which classifies or rates the pooled vector of each sequence.

    Logits are [B, num_labels], before any activation: softmax (one label), sigmoid (several) or
    nothing (regression) turns them into predictions.
    """

    task = "sequence_classification"
    class_suffix = "ForSequenceClassification"
    kinds = ("encoder", "decoder")
    arguments = Answers
    keys = {"classifier": "classifier"}
    peft_task = "SEQ_CLS"
    head_in_fp32 = True
    reads_first_token = True

    if TYPE_CHECKING:

        def __call__(
            self,
            input_ids: Tensor,
            attention_mask: Tensor | None = None,
            **arguments: Unpack[Answers],
        ) -> SequenceClassifierOutput: ...

    @staticmethod
    def build(config: ModelConfig) -> nn.Module:
        dropout = classifier_dropout(config)
        return ClassificationHead(config.hidden_size, config.num_labels, dropout=dropout)

    def arrange(self, call: Call, answers: Given) -> Call:
        """Mask the trailing pads of a decoder's inputs if no mask is given, as in transformers."""
        ids = call.input_ids
        if ids is None or call.is_flat or ids.ndim != 2 or call.attention_mask is not None:
            return call
        if not self.body.pools_last_token or self.config.pad_token_id is None:
            return call
        mask = _up_to_last(ids, self.config.pad_token_id)
        return replace(call, attention_mask=mask)

    def respond(self, encoding: Encoding, answers: Given) -> SequenceClassifierOutput:
        pooled, labels = encoding.encoded.pooled, answers.get("labels")
        with torch.autocast(pooled.device.type, enabled=False):  # few rows: fp32 costs little
            numbers = next(self.head.parameters()).dtype
            logits = self.head(pooled.to(numbers), encoding.sequence_keys)
        loss = None if labels is None else classification_loss(logits, labels, self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits, **encoding.traces)


def _up_to_last(input_ids: Tensor, pad: int) -> Tensor:
    """[B, L], 1 up to each row's last token that is not a pad; if all are pads, only the first."""
    columns = torch.arange(input_ids.shape[1], device=input_ids.device)
    last = ((input_ids != pad) * columns).amax(1, keepdim=True)
    return (columns <= last).long()


HEAD = SequenceClassificationModel
