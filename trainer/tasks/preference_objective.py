"""PreferenceObjective: the loss and rewards of the two completions of a prompt.

N is the number of samples, each with a chosen and a rejected completion.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer.errors import InputError
from trainer.models.outputs import Outputs
from trainer.tasks.setting_checks import check_least

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.tasks.completions import Completions

OBJECTIVES = ("dpo", "ipo", "hinge", "cpo", "simpo", "orpo")
REFERENCED = ("dpo", "ipo", "hinge")
"""Objectives with a reference model."""
SMOOTHED = ("dpo", "cpo", "simpo")
"""Objectives that support label smoothing."""
ROLES = ("chosen", "rejected")


@dataclass(frozen=True)
class PreferenceObjective:
    """The options of recipe=preference that define its loss."""

    objective: str
    beta: float | None
    label_smoothing: float
    margin: float
    nll_weight: float | None

    def check(self) -> None:
        """Raise InputError for settings that are unknown, out of range or in conflict."""
        if self.objective not in OBJECTIVES:
            found, accepted = f"found '{self.objective}'", ", ".join(OBJECTIVES)
            raise InputError(
                f"recipe.objective: {found}; accepted: {accepted} (kto: recipe=unpaired_preference)"
            )
        if self.beta is not None and not self.beta > 0:
            raise InputError(f"recipe.beta: found {self.beta}; accepted: above 0, or null")
        if not 0 <= self.label_smoothing < 0.5:
            found = f"found {self.label_smoothing}"
            raise InputError(f"recipe.label_smoothing: {found}; accepted: 0 or more and below 0.5")
        if self.label_smoothing and self.objective not in SMOOTHED:
            found = f"found {self.label_smoothing} with recipe.objective={self.objective}"
            accepted = f"0, or recipe.objective={', '.join(SMOOTHED)}"
            raise InputError(f"recipe.label_smoothing: {found}; accepted: {accepted}")
        check_least(self, 0, "margin", "nll_weight")

    @property
    def has_reference(self) -> bool:
        """Whether the model is compared with a reference model."""
        return self.objective in REFERENCED

    def losses(self, outputs: Outputs, found: "Completions") -> "Tensor":
        """[N], the loss of each pair of a batch's completions."""
        losses = self._compared(*(self._scores(found, role) for role in ROLES))
        default = 1.0 if self.objective in ("cpo", "orpo") else 0.0
        if weight := default if self.nll_weight is None else self.nll_weight:
            losses = losses + weight * self._nll(outputs, found)
        return losses

    def reward(self, found: "Completions", role: str) -> "Tensor":
        """[N], beta times the score of the chosen or of the rejected completions."""
        return self._beta * self._scores(found, role)

    @property
    def _beta(self) -> float:
        return self.beta if self.beta is not None else (2.0 if self.objective == "simpo" else 0.1)

    def _compared(self, chosen: "Tensor", rejected: "Tensor") -> "Tensor":
        """[N], the loss from the difference between chosen and rejected completions."""
        from trainer.tasks import preference_losses as losses

        delta, beta = chosen - rejected, self._beta
        match self.objective:
            case "ipo":
                return losses.ipo_loss(delta, beta)
            case "hinge":
                return losses.hinge_loss(beta * delta)
            case "orpo":
                return beta * losses.odds_ratio_loss(chosen, rejected)
            case "simpo":
                return losses.sigmoid_loss(beta * delta - self.margin, self.label_smoothing)
        return losses.sigmoid_loss(beta * delta, self.label_smoothing)

    def _scores(self, found: "Completions", role: str) -> "Tensor":
        """[N], the compared scores: log-probabilities, log-ratios, or their means over tokens."""
        if self.objective in ("simpo", "orpo"):
            return found.mean(role)
        if not self.has_reference:
            return found.summed(role)
        ratios = found.log_ratios(role)
        if self.objective == "ipo":
            return ratios / found.summed(role, found.tokens).clamp(min=1)
        return ratios

    def _nll(self, outputs: Outputs, found: "Completions") -> "Tensor":
        """[N], the mean loss per token of the chosen completion.

        For ORPO it includes the prompt, as in its authors' code.
        """
        from trainer.tasks.completions import Completions
        from trainer.tasks.losses import IGNORED

        if self.objective != "orpo":
            return -found.mean("chosen")
        batch, labels = found.batch, found.batch["labels"]
        of_prompt = batch.input_ids.masked_fill(labels != IGNORED, IGNORED)
        prompt = Completions.of(outputs, batch, of_prompt)
        tokens = found.summed("chosen", found.tokens + prompt.tokens)
        return -found.summed("chosen", found.log_probs + prompt.log_probs) / tokens.clamp(min=1)
