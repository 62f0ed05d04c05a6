"""Label losses: losses of single labels, label sets and numbers, with focal loss and R-Drop."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer.errors import InputError
from trainer.tasks.class_weights import weight_tensor

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class LabelLoss:
    """Computes the losses of N samples, as sums [N] to add up and counts [N] to divide by."""

    problem: str
    """single_label, multi_label or regression."""
    labels: list[str] | None
    class_weights: Mapping[str, float] | str | None
    """Class name -> weight, or None; as the user gave them if nothing was learnt from rows."""
    focal_gamma: float = 0.0
    """The exponent of focal loss (Lin et al. 2017); 0 for plain cross-entropy."""
    r_drop: float = 0.0
    """The weight of R-Drop's divergence (Liang et al. 2021); 0 to disable it."""

    def check(self) -> None:
        """Raise InputError for options that conflict."""
        for name in ("focal_gamma", "r_drop"):
            if not 0 <= getattr(self, name) < float("inf"):
                found = f"found {getattr(self, name)}"
                raise InputError(f"recipe.{name}: {found}; accepted: 0 or more")
        if self.focal_gamma and self.problem == "regression":
            found = f"found {self.focal_gamma}, and a regression has no classes"
            raise InputError(f"recipe.focal_gamma: {found}; accepted: 0")

    def __call__(
        self, logits: "Tensor", labels: "Tensor", label_smoothing: float = 0.0
    ) -> "tuple[Tensor, Tensor]":
        """The loss of logits [N, C], or [2N, C] if each sample was run twice in succession.

        With R-Drop the loss is the mean of both passes' losses plus `r_drop` times half of
        KL(P || Q) + KL(Q || P), as in the authors' code; with alpha = r_drop, the loss in
        their paper is twice as large. For label sets the divergence is summed over the labels'
        Bernoulli distributions; for a regression it is the squared difference. Class weights apply
        to all parts of the loss.
        """
        if len(logits) == len(labels):
            return self._plain(logits, labels, label_smoothing)
        first, second = logits.view(len(labels), 2, -1).unbind(1)
        sums, counts = self._plain(first, labels, label_smoothing)
        second_sums, _ = self._plain(second, labels, label_smoothing)
        divergences = self._divergence(first, second) * self._weights(counts)
        return (sums + second_sums) / 2 + self.r_drop * divergences, counts

    def counts(self, labels: "Tensor") -> "Tensor":
        """[N], the counts of the loss, which do not depend on the logits."""
        import torch

        if self.problem != "single_label":
            entries = labels.reshape(len(labels), -1).shape[1]
            return torch.full((len(labels),), float(entries), device=labels.device)
        counts = (labels >= 0).double()
        weights = weight_tensor(self.class_weights, self.labels, counts)
        return counts if weights is None else counts * weights[labels.clamp(min=0)]

    def _plain(
        self, logits: "Tensor", labels: "Tensor", smoothing: float
    ) -> "tuple[Tensor, Tensor]":
        from trainer.tasks.losses import binary_cross_entropy, cross_entropy, mean_squared_error

        if self.problem == "regression":
            return mean_squared_error(logits.squeeze(-1), labels)
        options: dict[str, Any] = {
            "label_smoothing": smoothing,
            "class_weights": weight_tensor(self.class_weights, self.labels, logits),
        }
        if self.focal_gamma:
            from trainer.tasks.focal_loss import binary_focal_loss, focal_loss

            focal = focal_loss if self.problem == "single_label" else binary_focal_loss
            return focal(logits, labels, self.focal_gamma, **options)
        loss = cross_entropy if self.problem == "single_label" else binary_cross_entropy
        return loss(logits, labels, **options)

    def _divergence(self, first: "Tensor", second: "Tensor") -> "Tensor":
        """[N], the divergence between each sample's two passes."""
        from trainer.tasks.focal_loss import symmetric_bernoulli_kl, symmetric_kl

        if self.problem == "regression":
            return (first - second).square().sum(-1)
        return (symmetric_kl if self.problem == "single_label" else symmetric_bernoulli_kl)(
            first, second
        )

    def _weights(self, counts: "Tensor") -> "Tensor":
        """[N], the weight of each sample's divergence."""
        return counts if self.problem == "single_label" else counts.new_ones(len(counts))
