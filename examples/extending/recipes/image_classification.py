"""Image classification: predicts one label for each image."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from trainer.data.rows import column_of
from trainer.errors import InputError, RowError
from trainer.tasks.recipe import Axis, Head, Recipe

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

    from trainer.data.arrays import ArraySamples
    from trainer.data.batch import Batch
    from trainer.data.sample_rows import SampleRows
    from trainer.tasks.columns import Columns
    from trainer.tasks.comparison import Comparison
    from trainer.tasks.processor import Processor, SampleContext


@dataclass(frozen=True)
class ImageClassification(Recipe):
    """Classify images of one size."""

    image: str = "pixels"
    """Column of the image: rows of pixels. A pixel is a number, or a list with one per channel."""
    label: str = "label"
    """Column of the label."""
    largest: float = 255.0
    """The largest value of a pixel."""
    labels: list[str] | None = None
    """Label names in the order of their ids; null: those of the training rows."""
    image_size: int | None = None
    """Height and width; null: those of the first training image."""
    channels: int | None = None
    """Number of channels; null: that of the first training image."""

    reads_text: ClassVar[bool] = False
    fields: ClassVar[Mapping[str, Axis]] = {"labels": "sample"}
    predicted: ClassVar[Mapping[str, Axis]] = {"probabilities": "sample", "references": "sample"}

    @property
    def metric_for_best_model(self) -> str:
        return "accuracy"

    @property
    def compares(self) -> str:
        return "classes"

    @property
    def text_columns(self) -> tuple[str, ...]:
        return (self.image,)

    @property
    def answer_columns(self) -> tuple[str, ...]:
        return (self.label,)

    @property
    def class_names(self) -> list[str] | None:
        return self.labels

    @property
    def head(self) -> Head:
        if not (self.labels and self.image_size and self.channels):
            raise InputError("recipe.labels: null; accepted: training rows to learn them from")
        sizes = {"image_size": self.image_size, "channels": self.channels}
        return Head("image_classification", {"num_labels": len(self.labels), **sizes})

    def learn(self, rows: "Dataset", *held_out: "Dataset") -> "ImageClassification":
        import numpy as np

        cells = column_of(rows, self.label, "recipe.label")
        labels = self.labels or [str(cell) for cell in sorted(set(cells))]
        first = np.shape(column_of(rows.select([0]), self.image, "recipe.image")[0])
        if len(first) not in (2, 3):
            raise RowError(
                0, f"found an image of shape {list(first)}; accepted: [H, W] or [H, W, C]"
            )
        size, channels = self.image_size or first[0], self.channels or (*first, 1)[2]
        return replace(self, labels=labels, image_size=size, channels=channels)

    def load_processor(self, folder: Path | None) -> "Processor":
        from examples.extending.images import ImageProcessor

        return (
            ImageProcessor(self.largest)
            if folder is None
            else ImageProcessor.from_pretrained(folder)
        )

    def samples(
        self, rows: "Dataset", processor: "Processor | None", context: "SampleContext"
    ) -> "ArraySamples":
        from examples.extending.images import ImageProcessor
        from trainer.data.arrays import ArraySamples

        assert isinstance(processor, ImageProcessor) and self.image_size and self.channels
        images = column_of(rows, self.image, "recipe.image")
        columns = {"pixels": processor(images, self.image_size, self.channels)}
        if self.label in rows.column_names:
            columns["labels"] = self._ids(column_of(rows, self.label, "recipe.label"))
        return ArraySamples(columns, ["pixels"])

    def loss(
        self, outputs: Any, batch: "Batch", *, label_smoothing: float = 0.0
    ) -> tuple["Tensor", "Tensor"]:
        import torch
        import torch.nn.functional as F

        losses = F.cross_entropy(
            outputs.logits, batch["labels"], reduction="none", label_smoothing=label_smoothing
        )
        return losses, torch.ones_like(losses)

    def predictions(self, outputs: Any, batch: "Batch") -> dict[str, "Tensor"]:
        found = {"probabilities": outputs.logits.float().softmax(-1)}
        return {**found, "references": batch["labels"]} if "labels" in batch else found

    def comparison(self, columns: "Columns", rows: "SampleRows") -> "Comparison | None":
        from trainer.tasks.comparison import Comparison

        if "references" not in columns:
            return None
        ids = columns["probabilities"].values.argmax(-1)
        return Comparison("classes", ids, columns["references"].values, self.labels)

    def answers(self, columns: "Columns", rows: "SampleRows") -> list[dict[str, Any]]:
        assert self.labels is not None
        found = columns["probabilities"].values
        best = found.argmax(-1)
        return [
            {"label": self.labels[number], "score": float(scores[number])}
            for number, scores in zip(best, found, strict=True)
        ]

    def _ids(self, cells: list[Any]) -> Any:
        import numpy as np

        from trainer.errors import AnswerError

        ids = {name: number for number, name in enumerate(self.labels or [])}
        for row, cell in enumerate(cells):
            if str(cell) not in ids:
                raise AnswerError(row, f"found the label {cell!r}; accepted: {', '.join(ids)}")
        return np.array([ids[str(cell)] for cell in cells], dtype=np.int64)
