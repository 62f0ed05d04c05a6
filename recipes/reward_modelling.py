"""Reward modeling: learns to score completions, from pairs of a better and a worse one.

Dimensions: N samples, S sequences.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from trainer.data.preference_answers import margins_of
from trainer.errors import InputError
from trainer.tasks.completion_recipe import CompletionRecipe, joined
from trainer.tasks.recipe import Axis, Head
from trainer.tasks.setting_checks import check_least

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.data.batch import Batch, OwnBatch
    from trainer.data.sample_rows import SampleRows
    from trainer.models.heads.sequence_classification import SequenceClassifierOutput
    from trainer.tasks.columns import Columns
    from trainer.tasks.figures import Figures
    from trainer.tokenizer import Tokenizer

PAIR = ("chosen", "rejected")
"""The columns with the completions of a training row."""
SCORED = ("completion",)
"""The column with the completion in rows to score."""


@dataclass(frozen=True)
class RewardModelling(CompletionRecipe):
    """Learn a score that is higher for the preferred completion (Bradley and Terry, 1952).

    Rows have `prompt`, `chosen` and `rejected`, as in preference tuning. An optional `margin` is
    subtracted from the difference of the two scores in the loss. Rows to score have `prompt` and
    `completion`. The model is a sequence classifier with one output.
    """

    center_weight: float = 0.0
    """Weight of a penalty on (chosen + rejected)^2, which keeps scores near 0; 0.01 is common."""

    fields: ClassVar[Mapping[str, Axis]] = {"margins": "sample"}
    roles: ClassVar[tuple[str, ...]] = (*PAIR, *SCORED)
    predicted: ClassVar[Mapping[str, Axis]] = {"scores": "sequence"}
    measures: ClassVar[Mapping[str, bool]] = {
        "preference_accuracy": True,
        "margin": True,
        "chosen_score": True,
        "rejected_score": False,
    }

    step_figures: ClassVar[tuple[str, ...]] = tuple(measures)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, 0, "center_weight")

    @property
    def text_columns(self) -> tuple[str, ...]:
        return ("prompt", *SCORED)

    @property
    def head(self) -> Head:
        return Head("sequence_classification", {"num_labels": 1})

    def features(
        self, rows: Mapping[str, Sequence[Any]], tokenizer: "Tokenizer"
    ) -> dict[str, list[Any]]:
        names = SCORED if "completion" in rows and "chosen" not in rows else PAIR
        parts = self.encoded(rows, names, tokenizer, whole=True)
        number = len(parts[0].input_ids)
        roles = [[self.roles.index(name)] * number for name in names]
        columns = joined(parts, roles, labelled=False)
        if names == PAIR:
            columns["margins"] = margins_of(rows, number)
        return columns

    def loss(
        self,
        outputs: "SequenceClassifierOutput",
        batch: "Batch",
        *,
        label_smoothing: float = 0.0,
    ) -> tuple["Tensor", "Tensor"]:
        import torch

        from trainer.tasks.preference_losses import sigmoid_loss

        chosen, rejected = _pair(outputs, batch)
        losses = sigmoid_loss(chosen - rejected - batch["margins"].to(chosen))
        if self.center_weight:
            losses = losses + self.center_weight * (chosen + rejected).square()
        return losses, torch.ones_like(losses)

    def figures(self, outputs: "SequenceClassifierOutput", batch: "Batch") -> "Figures":
        from trainer.tasks.figures import of_pairs

        return of_pairs(*_pair(outputs, batch), "score")

    def predictions(
        self, outputs: "SequenceClassifierOutput", batch: "Batch"
    ) -> dict[str, "Tensor"]:
        return {"scores": _scores(outputs)}

    def measure(self, loss: float, columns: "Columns") -> dict[str, float]:
        from trainer.tasks.preference_measures import of_pairs

        chosen, rejected = columns["scores"].values.astype("float64").reshape(-1, 2).T
        return of_pairs(chosen, rejected, "score")

    def answers(self, columns: "Columns", rows: "SampleRows") -> list[dict[str, Any]]:
        found = []
        for scores in columns["scores"].by_sample():
            names = ("chosen_score", "rejected_score") if len(scores) == 2 else ("score",)
            found.append(dict(zip(names, scores.tolist(), strict=True)))
        return found


def _pair(outputs: "SequenceClassifierOutput", batch: "OwnBatch") -> tuple["Tensor", "Tensor"]:
    """The scores of each sample's chosen and of its rejected completion, [N] each."""
    scores = _scores(outputs)
    return scores[batch.of_role("chosen")], scores[batch.of_role("rejected")]


def _scores(outputs: "SequenceClassifierOutput") -> "Tensor":
    """The score of each sequence, [S], in at least fp32.

    Raises InputError if the head does not have exactly one output.
    """
    import torch

    logits = outputs.logits
    assert logits is not None
    if logits.shape[-1] != 1:
        found = f"its head has {logits.shape[-1]} outputs"
        raise InputError(f"model: {found}; accepted: 1 (create the model with num_labels=1)")
    return logits.squeeze(-1) if logits.dtype == torch.float64 else logits.squeeze(-1).float()
