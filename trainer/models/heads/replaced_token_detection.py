"""Replaced token detection: classifies each token as original or as replaced by a generator."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Unpack

from torch import Tensor, nn

from trainer.models.blocks.activations import ACTIVATIONS
from trainer.models.blocks.linear import Linear
from trainer.models.config import ModelConfig
from trainer.models.encoding import Encoding
from trainer.models.heads.losses import token_flag_loss
from trainer.models.inputs import Arguments
from trainer.models.outputs import ModelOutput
from trainer.models.pretrained import Given, PretrainedModel


@dataclass
class ReplacedTokenOutput(ModelOutput):
    """The outputs of a replaced token detection model."""

    loss: Tensor | None = None
    """The mean loss over the tokens, if labels were given"""
    logits: Tensor | None = None
    """[B, L] before the sigmoid, zeros at pad positions; [T] in a flat call"""
    hidden_states: tuple[Tensor, ...] | None = None
    """As in `BaseModelOutput`"""
    attentions: tuple[Tensor, ...] | None = None
    """As in `BaseModelOutput`"""


class Answers(Arguments, total=False):
    """The keyword arguments of `forward` that only this head reads."""

    labels: Tensor | None
    """In the shape of input_ids: 1 for a replaced token, 0 for an original one, -100: no label"""


class ReplacedTokenHead(nn.Module):
    """linear -> activation -> linear, over every token."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.classifier = Linear(config.hidden_size, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens [T, D] -> logits [T]."""
        found: Tensor = self.classifier(self.activation(self.dense(tokens))).squeeze(-1)
        return found


class ReplacedTokenDetectionModel(PretrainedModel):
    """ELECTRA's discriminator with its pretraining head (Clark et al., 2020).

    Logits are [B, L] ([T] in a flat call), before the sigmoid; a logit above 0 predicts that the
    token was replaced. The logits of pads are zeros. Only families that list this head support it.
    """

    task = "replaced_token_detection"
    class_suffix = "ForPreTraining"
    arguments = Answers
    keys = {
        "dense": "discriminator_predictions.dense",
        "classifier": "discriminator_predictions.dense_prediction",
    }

    if TYPE_CHECKING:

        def __call__(
            self,
            input_ids: Tensor,
            attention_mask: Tensor | None = None,
            **arguments: Unpack[Answers],
        ) -> ReplacedTokenOutput: ...

    @staticmethod
    def build(config: ModelConfig) -> nn.Module:
        return ReplacedTokenHead(config)

    def respond(self, encoding: Encoding, answers: Given) -> ReplacedTokenOutput:
        logits, labels = self.head(encoding.encoded.tokens), answers.get("labels")
        return ReplacedTokenOutput(
            loss=None if labels is None else token_flag_loss(logits, labels, encoding.layout),
            logits=encoding.layout.unpack(logits),
            **encoding.traces,
        )


HEAD = ReplacedTokenDetectionModel
