"""TokenPrediction: a base for recipes that predict tokens of the vocabulary."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from trainer.models.outputs import Outputs
from trainer.tasks.recipe import Axis, Recipe

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.data.batch import Batch, OwnBatch
    from trainer.data.sample_rows import SampleRows
    from trainer.tasks.columns import Columns
    from trainer.tasks.losses import TokenLosses


SEQUENCE_SUMS = ("sequence_losses", "sequence_tokens", "sequence_correct")
"""Additional predictions of recipes that pack several documents into a block: sums per sequence.

The sequences of one block may belong to different evaluation slices.
"""


class TokenPrediction(Recipe):
    """Predict tokens; the loss is the mean over tokens. Evaluations keep sums for each sample."""

    predicted: ClassVar[Mapping[str, Axis]] = {
        "tokens": "sample",
        "correct": "sample",
        **dict.fromkeys(SEQUENCE_SUMS, "sequence"),
    }
    measures: ClassVar[Mapping[str, bool]] = {"perplexity": False, "token_accuracy": True}

    def token_losses(
        self, outputs: Outputs, batch: "OwnBatch", label_smoothing: float
    ) -> "TokenLosses":
        """The loss of each token with a label."""
        raise AssertionError(f"{type(self).__name__} does not define token_losses")

    def loss(
        self, outputs: Outputs, batch: "Batch", *, label_smoothing: float = 0.0
    ) -> tuple["Tensor", "Tensor"]:
        found = self.token_losses(outputs, batch, label_smoothing)
        if found.sum.requires_grad:
            return found.sum, found.count
        sums = self.by_sample(found, batch)
        return sums["losses"], sums["supervised"]

    def predictions(self, outputs: Outputs, batch: "OwnBatch") -> dict[str, "Tensor"]:
        losses = self.token_losses(outputs, batch, 0.0)
        sums = self.by_sample(losses, batch)
        found = {"tokens": sums["supervised"], "correct": sums["correct"]}
        if self.sliced_by is None or self.blocks is None:
            return found
        by_sequence = losses.by_sequence(batch.sequence_lengths)
        return found | dict(zip(SEQUENCE_SUMS, by_sequence.values(), strict=True))

    def by_sample(self, found: "TokenLosses", batch: "OwnBatch") -> dict[str, "Tensor"]:
        """The sums of each sample, over all its sequences: [N] each."""
        sums = found.by_sequence(batch.sequence_lengths)
        return {
            name: x.new_zeros(batch.num_samples).index_add_(0, batch.sequence_sample, x)
            for name, x in sums.items()
        }

    def measure(self, loss: float, columns: "Columns") -> dict[str, float]:
        import numpy as np

        tokens, correct = columns["tokens"].values, columns["correct"].values
        with np.errstate(over="ignore", invalid="ignore"):  # exp of a loss above 709 is infinite
            accuracy = correct.sum(dtype=np.float64) / tokens.sum(dtype=np.float64)
            return {"perplexity": float(np.exp(loss)), "token_accuracy": float(accuracy)}

    def answers(self, columns: "Columns", rows: "SampleRows") -> list[dict[str, Any]]:
        return [
            {"tokens": int(tokens), "correct": int(correct)}
            for tokens, correct in zip(columns["tokens"], columns["correct"], strict=True)
        ]
