"""LabelRecipe: the classes, losses and answers of recipes with a label column."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from trainer.tasks import label_config, label_predictions
from trainer.tasks.label_column import LabelColumn
from trainer.tasks.label_losses import LabelLoss
from trainer.tasks.recipe import Axis, Recipe

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.data.batch import Batch, Samples
    from trainer.data.sample_rows import SampleRows
    from trainer.tasks.columns import Columns
    from trainer.tasks.comparison import Comparison

KINDS = {"single_label": "classes", "multi_label": "label_sets", "regression": "numbers"}
"""The kind of comparison for metrics, by problem."""
BEST = {"regression": "pearson", "multi_label": "f1_macro"}
"""The metric for the best model, if it is not accuracy."""


class LabelRecipe(Recipe):
    """Predict a label, several labels or a number; subclasses define these options."""

    label: str | list[str]
    label_separator: str | None
    problem: str
    labels: list[str] | None
    class_weights: Any
    int_labels: str
    focal_gamma: float
    r_drop: float

    fields: ClassVar[Mapping[str, Axis]] = {"labels": "sample"}
    predicted: ClassVar[Mapping[str, Axis]] = {
        "predictions": "sample",
        "probabilities": "sample",
        "references": "sample",
    }

    @property
    def label_column(self) -> LabelColumn:
        """The label columns and how to read their cells."""
        return LabelColumn(
            self.label, self.problem, self.labels, self.int_labels, self.label_separator
        )

    @property
    def label_loss(self) -> LabelLoss:
        """The loss of logits with labels."""
        return LabelLoss(
            self.problem, self.labels, self.class_weights, self.focal_gamma, self.r_drop
        )

    @property
    def answer_columns(self) -> tuple[str, ...]:
        return self.label_column.names

    @property
    def label_rule(self) -> str:
        return self.label_column.rule

    @property
    def metric_for_best_model(self) -> str:
        return BEST.get(self.problem, "accuracy")

    @property
    def compares(self) -> str:
        return KINDS.get(self.problem, "classes")

    @property
    def has_classes(self) -> bool:
        return self.problem != "regression"

    @property
    def class_names(self) -> list[str] | None:
        return self.labels if self.problem == "single_label" else None

    @classmethod
    def fields_of_config(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        return label_config.options_of_config(config)

    def class_counts(self, samples: "Samples") -> dict[str, int]:
        return label_predictions.class_counts(self.problem, self.labels, samples)

    def counts(self, batch: "Batch") -> "Tensor":
        return self.label_loss.counts(batch["labels"])

    def label_predictions(self, logits: "Tensor", batch: "Batch") -> "dict[str, Tensor]":
        """Predictions, probabilities and references of logits [N, C]."""
        found = label_predictions.label_predictions(self.problem, logits)
        if "labels" in batch:
            sets = self.problem == "multi_label"
            found["references"] = batch["labels"].long() if sets else batch["labels"]
        return found

    def comparison(self, columns: "Columns", rows: "SampleRows") -> "Comparison | None":
        found = super().comparison(columns, rows)
        if found is None or self.problem != "single_label":
            return found
        known = columns["references"].values >= 0  # rows of ids may have no label: -100
        sides = columns["predictions"].values[known], columns["references"].values[known]
        return replace(found, predictions=sides[0], references=sides[1])

    def answers(self, columns: "Columns", rows: "SampleRows") -> list[dict[str, Any]]:
        return label_predictions.label_answers(self.problem, self.labels, columns)
