"""RatedCompletions: KTO's losses and rewards of a batch's good and bad completions."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from trainer.data.preference_answers import BAD, GOOD, MISMATCHED
from trainer.tasks.completions import Completions
from trainer.tasks.figures import Figures, means, of_good_and_bad
from trainer.tasks.preference_losses import group_kl, kto_loss


@dataclass(frozen=True)
class RatedCompletions:
    """The completions of a batch of N samples, each of them good or bad."""

    completions: Completions
    beta: float
    group_size: int
    """How many consecutive samples share an estimate of the KL divergence."""

    @cached_property
    def good(self) -> Tensor:
        """[N] bool, whether a sample's completion is good."""
        ones = torch.ones_like(self.completions.log_probs)
        return self.completions.summed(GOOD, ones) > 0

    @cached_property
    def log_probs(self) -> Tensor:
        """[N], the log-probabilities of the completions."""
        return self.completions.summed(GOOD) + self.completions.summed(BAD)

    @cached_property
    def log_ratios(self) -> Tensor:
        """[N], the log-probabilities minus those of the reference model."""
        return self.completions.log_ratios(GOOD) + self.completions.log_ratios(BAD)

    @cached_property
    def kl(self) -> Tensor:
        """[N], the estimate of the KL divergence from the reference model for each sample."""
        return group_kl(self.completions.log_ratios(MISMATCHED), self.group_size)

    @property
    def rewards(self) -> Tensor:
        """[N], beta times the log-ratios."""
        return self.beta * self.log_ratios

    def losses(self, weights: tuple[float, float]) -> Tensor:
        """[N], KTO's losses; `weights` are those of good and of bad completions."""
        return kto_loss(self.log_ratios, self.good, self.kl, beta=self.beta, weights=weights)

    def figures(self) -> Figures:
        """The metrics that are logged in training in addition to the loss."""
        right = (self.rewards > self.beta * self.kl) == self.good
        values = {"reward": self.rewards, "log_prob": self.log_probs}
        return {**of_good_and_bad(self.good, right, values), **means({"kl": self.kl})}

    def columns(self) -> dict[str, Tensor]:
        """The columns of an evaluated batch; rewards and KL only if it has reference log-probs."""
        found = {"log_probs": self.log_probs, "good": self.good}
        if "reference" in self.completions.batch:
            found |= {"rewards": self.rewards, "kl": self.kl}
        return found
