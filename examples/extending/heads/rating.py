"""Rating: predicts a grade from a score for each sequence and ordered thresholds (CORAL).

Cao, Mirjalili and Raschka, arXiv:1901.07884.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer.models.config import ModelConfig
from trainer.models.encoding import Encoding
from trainer.models.inputs import Arguments
from trainer.models.outputs import ModelOutput
from trainer.models.pretrained import Given, PretrainedModel


@dataclass
class RatingOutput(ModelOutput):
    """The outputs of a model with a rating head."""

    loss: Tensor | None = None
    """The mean loss over the batch, if labels were given"""
    logits: Tensor | None = None
    """[B, num_labels - 1]: sigmoid(logits[:, k]) is the probability of a grade above k"""
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class Answers(Arguments, total=False):
    """The named arguments of a call."""

    labels: Tensor | None
    """[B], the index of each sequence's grade, from 0"""


class Thresholds(nn.Module):
    """A score for each sequence, plus a bias (minus the threshold) for each step between grades."""

    def __init__(self, hidden_size: int, num_grades: int) -> None:
        super().__init__()
        self.score = nn.Linear(hidden_size, 1, bias=False)
        self.biases = nn.Parameter(torch.linspace(1.0, -1.0, num_grades - 1))

    def forward(self, pooled: Tensor) -> Tensor:
        """pooled [B, hidden_size] -> logits [B, num_grades - 1]."""
        return self.score(pooled) + self.biases


class RatingModel(PretrainedModel):
    """A body with a rating head, for every family."""

    task = "rating"
    class_suffix = "ForRating"
    kinds = ("encoder", "decoder")
    arguments = Answers
    keys = {"": "rating", "score": "rating.score"}
    head_in_fp32 = True
    reads_first_token = True

    @staticmethod
    def build(config: ModelConfig) -> nn.Module:
        return Thresholds(config.hidden_size, config.num_labels)

    def respond(self, encoding: Encoding, answers: Given) -> RatingOutput:
        pooled, labels = encoding.encoded.pooled, answers.get("labels")
        with torch.autocast(pooled.device.type, enabled=False):
            logits = self.head(pooled.to(self.head.biases.dtype))
        loss = None if labels is None else rating_losses(logits, labels).mean()
        return RatingOutput(loss=loss, logits=logits, **encoding.traces)


def rating_losses(logits: Tensor, grades: Tensor) -> Tensor:
    """The loss of each sequence [B]: the cross-entropies of "above grade k", summed over k."""
    levels = torch.arange(logits.shape[1], device=logits.device)
    above = (grades[:, None] > levels).to(logits.dtype)
    losses = nn.functional.binary_cross_entropy_with_logits(logits, above, reduction="none")
    return losses.sum(1)


HEAD = RatingModel
