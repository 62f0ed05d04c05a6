"""Distillation of a classifier: a smaller model learns a teacher's class probabilities."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from trainer.data import labels as cells
from trainer.data.rows import label_column
from trainer.errors import InputError
from trainer.tasks.label_config import config_of_labels
from trainer.tasks.label_predictions import label_answers, label_predictions
from trainer.tasks.recipe import Axis, Head
from trainer.tasks.setting_checks import check_positive, check_share
from trainer.tasks.text_pairs import TextPairRecipe, encoded_texts

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

    from trainer.data.batch import Batch
    from trainer.data.sample_rows import SampleRows
    from trainer.models.heads.sequence_classification import SequenceClassifierOutput
    from trainer.tasks.columns import Columns
    from trainer.tasks.comparison import Comparison
    from trainer.tokenizer import Tokenizer

KIND = "single_label"
"""The `problem` of sequence classification that the teacher must have been trained for."""


@dataclass(frozen=True)
class Distillation(TextPairRecipe):
    """Learn the class probabilities of a trained classifier, the teacher (Hinton et al. 2015).

    The classes are the teacher's, and the tokenizer must have the teacher's vocabulary. The teacher
    runs once over the rows, before the first step, and is then freed; its outputs are cached.
    Labels are optional; if rows have them, they are used in the loss and in the evaluation too.
    """

    teacher: str | None = None
    """A folder, hub id or pkg:// path of a sequence classifier with one label per text."""
    text: str = "text"
    """The column of the text."""
    text_pair: str | None = None
    """The column of the second text of a pair."""
    label: str = "label"
    """The column of labels, if the rows have it: the teacher's class names, or their ids."""
    max_length: int = 256
    """Longer texts are cut to this many tokens."""
    temperature: float = 2.0
    """Logits are divided by this number; above 1, small probabilities matter more."""
    soft_weight: float = 0.5
    """Weight of the teacher's probabilities, 0 to 1; labels have the weight 1 - soft_weight."""
    hidden_weight: float = 0.0
    """Weight of the cosine distance between the hidden states of both models, which must have the
    same hidden size."""
    hidden_depths: int = 1
    """Number of layers whose hidden states are compared, evenly spaced; 1: only the last one."""
    labels: list[str] | None = None
    """The teacher's classes; null: those in its config.json."""

    fields: ClassVar[Mapping[str, Axis]] = {"labels": "sample"}
    predicted: ClassVar[Mapping[str, Axis]] = dict.fromkeys(
        ("predictions", "probabilities", "references", "agrees"), "sample"
    )
    measures: ClassVar[Mapping[str, bool]] = {"teacher_agreement": True}
    compares: ClassVar[str | None] = "classes"

    def __post_init__(self) -> None:
        check_positive(self, "temperature")
        check_share(self, "soft_weight")
        if not self.hidden_weight >= 0 or self.hidden_depths < 1:
            accepted = "accepted: 0 or more, with recipe.hidden_depths of 1 or more"
            raise InputError(f"recipe.hidden_weight: found {self.hidden_weight}; {accepted}")

    @property
    def derived(self) -> Mapping[str, Axis]:  # type: ignore[override]
        """The teacher's logits, and its hidden states if they are compared."""
        hidden: dict[str, Axis] = {"teacher_hidden": "token"} if self.hidden_weight else {}
        return {"teacher_logits": "sample", **hidden}

    @property
    def derived_by(self) -> str | None:
        if self.teacher is None:
            raise InputError("recipe.teacher: nothing given; accepted: the path of a classifier")
        return self.teacher

    @property
    def answer_columns(self) -> tuple[str, ...]:
        return (self.label,)

    @property
    def class_names(self) -> list[str] | None:
        return self.labels

    def learn(self, rows: "Dataset", *held_out: "Dataset") -> "Distillation":
        found = self.for_columns(rows.column_names)
        if self.labels is not None:
            return found
        from trainer import hub
        from trainer.models.config import ModelConfig

        assert self.derived_by is not None
        config = ModelConfig.from_pretrained(hub.find(self.derived_by, what="recipe.teacher"))
        return replace(found, labels=list(config.id2label.values()))

    @property
    def head(self) -> Head:
        if self.labels is None:
            raise InputError("recipe.labels: not known; give them, or rows to train on")
        traces = {"output_hidden_states": True} if self.hidden_weight else {}
        return Head("sequence_classification", {**config_of_labels(KIND, self.labels), **traces})

    def features(
        self, rows: Mapping[str, Sequence[Any]], tokenizer: "Tokenizer"
    ) -> dict[str, list[Any]]:
        columns = encoded_texts(rows, self.text, self.text_pair, tokenizer, self.max_length)
        columns["labels"] = [-100] * len(columns["input_ids"])
        if self.label in rows:
            values = label_column(rows, self.label, "recipe.label")
            columns["labels"] = cells.ids_of(values, self.labels or [], f"'{self.label}'")
        return columns

    def derive(self, outputs: "SequenceClassifierOutput", batch: "Batch") -> dict[str, "Tensor"]:
        from trainer.tasks.distillation_losses import spaced_layers

        assert outputs.logits is not None
        found = {"teacher_logits": outputs.logits}
        if self.hidden_weight:
            found["teacher_hidden"] = spaced_layers(outputs.hidden_states, self.hidden_depths)
        return found

    def loss(
        self,
        outputs: "SequenceClassifierOutput",
        batch: "Batch",
        *,
        label_smoothing: float = 0.0,
    ) -> tuple["Tensor", "Tensor"]:
        import torch

        from trainer.tasks import distillation_losses as distances
        from trainer.tasks.losses import cross_entropy

        assert outputs.logits is not None
        soft = distances.soft_cross_entropy(
            outputs.logits, batch["teacher_logits"], self.temperature
        )
        hard, labelled = cross_entropy(
            outputs.logits, batch["labels"], label_smoothing=label_smoothing
        )
        weight = torch.where(labelled > 0, self.soft_weight, 1.0)
        losses = weight * soft + (1 - weight) * hard
        if self.hidden_weight:
            hidden = distances.hidden_losses(
                outputs.hidden_states, batch["teacher_hidden"], self.hidden_depths, batch
            )
            losses = losses + self.hidden_weight * hidden
        return losses, torch.ones_like(losses)

    def predictions(
        self, outputs: "SequenceClassifierOutput", batch: "Batch"
    ) -> dict[str, "Tensor"]:
        assert outputs.logits is not None
        found = label_predictions(KIND, outputs.logits)
        if "teacher_logits" in batch:
            found["agrees"] = batch["teacher_logits"].argmax(-1) == found["predictions"]
        if "labels" in batch:
            found["references"] = batch["labels"]
        return found

    def measure(self, loss: float, columns: "Columns") -> dict[str, float]:
        return {"teacher_agreement": float(columns["agrees"].values.mean())}

    def comparison(self, columns: "Columns", rows: "SampleRows") -> "Comparison | None":
        if "references" not in columns or (columns["references"].values < 0).any():
            return None
        return super().comparison(columns, rows)

    def answers(self, columns: "Columns", rows: "SampleRows") -> list[dict[str, Any]]:
        kept = {name: columns[name] for name in ("predictions", "probabilities")}
        return label_answers(KIND, self.labels, kept)
