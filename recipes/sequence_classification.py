"""Sequence classification: predicts labels or a number for a text or a pair of texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from trainer.errors import InputError
from trainer.tasks import class_weights, label_config
from trainer.tasks.label_recipe import LabelRecipe
from trainer.tasks.recipe import Head
from trainer.tasks.text_pairs import TextPairRecipe, encoded_texts

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

    from trainer.data.batch import Batch, FlatBatch
    from trainer.models.heads.sequence_classification import SequenceClassifierOutput
    from trainer.tokenizer import Tokenizer


@dataclass(frozen=True)
class SequenceClassification(TextPairRecipe, LabelRecipe):
    """Classify a text or a pair of texts, or predict a number for it."""

    text: str = "text"
    """Column of the text."""
    text_pair: str | None = None
    """Column of the second text of a pair; null: text_pair, if the rows have such a column."""
    label: str | list[str] = "label"
    """Column of the label: a name, a number, or a list of labels; or several columns of 0 and 1."""
    label_separator: str | None = None
    """The separator of labels within a cell, such as | in "a|b" (multi_label)."""
    problem: str = "auto"
    """single_label, multi_label or regression; auto: inferred from the labels
    (trainer/data/labels.py).
    """
    labels: list[str] | None = None
    """Label names in the order of their ids; null: those of the training rows."""
    class_weights: Any = None
    """Weight of each class in the loss: {label: weight}, or balanced (rare classes weigh more)."""
    int_labels: str = "auto"
    """The meaning of integers in the label column: ids, names, or flags (0 and 1, one per label);
    auto: inferred from the labels.
    """
    max_length: int = 128
    """Longer texts are cut to this many tokens."""
    slices: str | None = None
    """Column whose values split evaluations into slices with separate metrics, such as
    eval_<value>_accuracy.
    """
    focal_gamma: float = 0.0
    """Exponent of focal loss, such as 2; focal loss gives samples that the model predicts well less
    weight. 0: none.
    """
    r_drop: float = 0.0
    """Weight of R-Drop, such as 1, which makes predictions with two dropout masks more similar; 0:
    none."""
    adversarial: float = 0.0
    """Step size of adversarial training (FGM), such as 1, which perturbs embeddings; 0: none."""

    takes_tokens: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.label_column.check()
        self.label_loss.check()
        class_weights.check_class_weights(self.class_weights)
        if self.max_length < 1:
            raise InputError(f"recipe.max_length: found {self.max_length}; accepted: 1 or more")
        if not 0 <= self.adversarial < float("inf"):
            raise InputError(f"recipe.adversarial: found {self.adversarial}; accepted: 0 or more")

    @property
    def head(self) -> Head:
        config = label_config.config_of_labels(self.problem, self.labels)
        return Head("sequence_classification", config)

    def learn(self, rows: "Dataset", *held_out: "Dataset") -> "SequenceClassification":
        column = self.label_column.learn(rows, *held_out)
        weights = self.class_weights
        if column.problem != "regression":
            weights = class_weights.learnt_weights(weights, column, rows)
        return replace(
            self.for_columns(rows.column_names),
            problem=column.problem,
            labels=column.labels,
            int_labels=column.int_labels,
            class_weights=weights,
        )

    def features(
        self, rows: Mapping[str, Sequence[Any]], tokenizer: "Tokenizer"
    ) -> dict[str, list[Any]]:
        columns = encoded_texts(rows, self.text, self.text_pair, tokenizer, self.max_length)
        if all(name in rows for name in self.answer_columns):
            columns["labels"] = self.label_column.targets(rows)
        return columns

    @property
    def augments(self) -> bool:
        return self.r_drop > 0

    def augment(
        self, batch: "FlatBatch", tokenizer: "Tokenizer", *, seed: int, epoch: int | None
    ) -> "FlatBatch":
        from trainer.data.doubled import doubled

        return batch if epoch is None else doubled(batch)

    def loss(
        self, outputs: "SequenceClassifierOutput", batch: "Batch", *, label_smoothing: float = 0.0
    ) -> tuple["Tensor", "Tensor"]:
        assert outputs.logits is not None
        return self.label_loss(outputs.logits, batch["labels"], label_smoothing)

    def predictions(
        self, outputs: "SequenceClassifierOutput", batch: "Batch"
    ) -> dict[str, "Tensor"]:
        assert outputs.logits is not None
        return self.label_predictions(outputs.logits, batch)
