"""Token classification with a CRF: a label for each token, and scores of label transitions."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer.models.config import ModelConfig
from trainer.models.encoding import Encoding
from trainer.models.heads.layers import TokenHead, classifier_dropout
from trainer.models.heads.losses import chain_loss
from trainer.models.heads.token_classification import Answers, TokenClassifierOutput
from trainer.models.pretrained import Given, PretrainedModel


@dataclass
class TokenClassifierCRFOutput(TokenClassifierOutput):
    """The outputs of a token classification model with a CRF."""

    transitions: Tensor | None = None
    """[num_labels + 2, num_labels]; see trainer/tasks/crf.py"""


class TokenCRFHead(TokenHead):
    """dropout -> linear, over every token, with the CRF's transition scores."""

    def __init__(self, hidden_size: int, num_labels: int, *, dropout: float) -> None:
        super().__init__(hidden_size, num_labels, dropout=dropout)
        self.crf = Transitions(num_labels)


class Transitions(nn.Module):
    """The CRF's scores of label pairs, first labels and last labels (trainer/tasks/crf.py)."""

    def __init__(self, num_labels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_labels + 2, num_labels))

    def forward(self) -> Tensor:
        """Return a copy, since a sharded parameter is gathered only during the forward pass."""
        return self.weight.clone()


class TokenClassificationCRFModel(PretrainedModel):
    """A body with a linear classifier over every token and a linear-chain CRF over each row.

    With `labels`, the labeled tokens of a sequence form its chain, and the loss is the mean over
    these tokens. Recipes compute the loss themselves, from `logits` and `transitions`, since a
    row's chain may span several windows. The weight file is that of a token classifier with one
    more tensor, crf.weight.
    """

    task = "token_classification_crf"
    class_suffix = "ForTokenClassificationCRF"
    kinds = ("encoder", "decoder")
    arguments = Answers
    keys = {"classifier": "classifier", "crf": "crf"}

    @staticmethod
    def build(config: ModelConfig) -> nn.Module:
        dropout = classifier_dropout(config)
        return TokenCRFHead(config.hidden_size, config.num_labels, dropout=dropout)

    def respond(self, encoding: Encoding, answers: Given) -> TokenClassifierCRFOutput:
        logits = self.head(encoding.encoded.tokens, encoding.token_keys)
        labels, transitions = answers.get("labels"), self.head.crf()
        layout = encoding.layout
        loss = None if labels is None else chain_loss(logits, labels, transitions, layout)
        return TokenClassifierCRFOutput(
            loss=loss, logits=layout.unpack(logits), transitions=transitions, **encoding.traces
        )


HEAD = TokenClassificationCRFModel
