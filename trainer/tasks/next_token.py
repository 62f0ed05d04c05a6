"""NextTokenRecipe: a base for the recipes of causal language models."""

from typing import TYPE_CHECKING

from trainer.models.outputs import Outputs
from trainer.tasks.recipe import Head
from trainer.tasks.token_prediction import TokenPrediction

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.data.batch import Batch, FlatBatch
    from trainer.tasks.losses import TokenLosses


class NextTokenRecipe(TokenPrediction):
    """Predict every token from those before it in its sequence."""

    @property
    def head(self) -> Head:
        return Head("causal_lm")

    def labels(self, batch: "Batch") -> "Tensor":
        """[T], the ids of the tokens to train on, and -100 for other tokens.

        All calls for the same batch return the same tensor object.
        """
        return batch["labels"]

    def trained_on(self, batch: "Batch") -> "Tensor":
        from trainer.tasks.losses import IGNORED

        predicted: Tensor = batch.inputs()["position_ids"] > 0
        return (self.labels(batch) != IGNORED) & predicted

    def token_losses(
        self, outputs: Outputs, batch: "FlatBatch", label_smoothing: float
    ) -> "TokenLosses":
        from trainer.tasks.losses import next_token_loss

        labels, on_host = self.labels(batch), getattr(batch, "on_host", {}).get("labels")
        return next_token_loss(
            outputs.projection, labels, label_smoothing=label_smoothing, host_labels=on_host
        )
