"""NextTokenRecipe: what the tasks of causal language models have in common."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from trainer.recipe import Head, Recipe

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from trainer.data.batch import Batch
    from trainer.losses import TokenLosses


class NextTokenRecipe(Recipe):
    """Every token is to be told by those before it in its sequence.

    The loss is a mean over tokens, not over samples. An evaluation keeps three numbers a sample.
    """

    measures: ClassVar[Mapping[str, bool]] = {"perplexity": False, "token_accuracy": True}

    @property
    def head(self) -> Head:
        return Head("causal_lm")

    def labels(self, batch: "Batch") -> "Tensor":
        """[T], each token that is learnt as its own label, else -100; one tensor for a batch."""
        return batch["labels"]

    def loss(
        self, outputs: Any, batch: "Batch", *, label_smoothing: float = 0.0
    ) -> tuple["Tensor", "Tensor"]:
        found = self._losses(outputs, batch, label_smoothing)
        if found.sum.requires_grad:
            return found.sum, found.count
        sums = _by_sample(found, batch)
        return sums["losses"], sums["supervised"]

    def predictions(self, outputs: Any, batch: "Batch") -> dict[str, "Tensor"]:
        sums = _by_sample(self._losses(outputs, batch, 0.0), batch)
        return {"tokens": sums["supervised"], "correct": sums["correct"]}

    def measure(self, loss: float, predictions: Mapping[str, "np.ndarray"]) -> dict[str, float]:
        import numpy as np

        tokens, correct = predictions["tokens"], predictions["correct"]
        with np.errstate(over="ignore", invalid="ignore"):  # exp of a loss beyond 709 is infinite
            accuracy = correct.sum(dtype=np.float64) / tokens.sum(dtype=np.float64)
            return {"perplexity": float(np.exp(loss)), "token_accuracy": float(accuracy)}

    def answers(self, predictions: Mapping[str, "np.ndarray"]) -> list[dict[str, Any]]:
        return [
            {"tokens": int(tokens), "correct": int(correct)}
            for tokens, correct in zip(predictions["tokens"], predictions["correct"], strict=True)
        ]

    def trained_on(self, batch: "Batch") -> "Tensor":
        from trainer.losses import IGNORED

        return (self.labels(batch) != IGNORED) & (batch.inputs()["position_ids"] > 0)

    def _losses(self, outputs: Any, batch: "Batch", label_smoothing: float) -> "TokenLosses":
        from trainer.losses import next_token_loss

        labels, on_host = self.labels(batch), getattr(batch, "on_host", {}).get("labels")
        return next_token_loss(
            outputs.projection, labels, label_smoothing=label_smoothing, host_labels=on_host
        )


def _by_sample(found: "TokenLosses", batch: Any) -> dict[str, "Tensor"]:
    """The sums of each sample, over all its sequences: [N] each."""
    sums = found.by_sequence(batch.sequence_lengths)
    return {
        name: x.new_zeros(batch.num_samples).index_add_(0, batch.sequence_sample, x)
        for name, x in sums.items()
    }
