"""Rating: predicts a grade for each text, such as 1 to 5 stars; grades are ordered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from trainer.data.rows import column_of, text_column
from trainer.errors import AnswerError, InputError
from trainer.tasks.recipe import Axis, Head, Recipe

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

    from trainer.data.batch import Batch
    from trainer.data.sample_rows import SampleRows
    from trainer.tasks.columns import Columns
    from trainer.tasks.comparison import Comparison
    from trainer.tokenizer import Tokenizer


@dataclass(frozen=True)
class Rating(Recipe):
    """Grade texts, for example give stars to reviews. Only the order of the grades matters."""

    text: str = "text"
    """Column of the text."""
    label: str = "label"
    """Column of the grade."""
    grades: list[float] | None = None
    """All grades in ascending order; null: those of the training rows."""
    max_length: int = 128
    """Longer texts are cut to this many tokens."""

    fields: ClassVar[Mapping[str, Axis]] = {"labels": "sample"}
    predicted: ClassVar[Mapping[str, Axis]] = {"levels": "sample", "references": "sample"}
    has_classes: ClassVar[bool] = False  # so that label smoothing is refused

    @property
    def metric_for_best_model(self) -> str:
        return "within_one"

    @property
    def compares(self) -> str:
        return "classes"

    @property
    def text_columns(self) -> tuple[str, ...]:
        return (self.text,)

    @property
    def answer_columns(self) -> tuple[str, ...]:
        return (self.label,)

    @property
    def max_tokens(self) -> int:
        return self.max_length

    @property
    def head(self) -> Head:
        if self.grades is None:
            raise InputError("recipe.grades: null; accepted: training rows to learn them from")
        return Head("rating", {"num_labels": len(self.grades)})

    def learn(self, rows: "Dataset", *held_out: "Dataset") -> "Rating":
        if self.grades is not None:
            return self
        cells = column_of(rows, self.label, "recipe.label")
        return replace(self, grades=sorted({_grade(cell, row) for row, cell in enumerate(cells)}))

    def features(
        self, rows: Mapping[str, Sequence[Any]], tokenizer: "Tokenizer"
    ) -> dict[str, list[Any]]:
        texts = text_column(rows, self.text, "recipe.text")
        encoded = tokenizer(
            texts, truncation=True, max_length=self.max_length, return_num_truncated_tokens=True
        )
        names = ("input_ids", "token_type_ids", "num_truncated_tokens")
        found = {name: encoded[name] for name in names if name in encoded}
        if self.label in rows:
            found["labels"] = [
                self._grade_index(cell, row) for row, cell in enumerate(rows[self.label])
            ]
        return found

    def loss(
        self, outputs: Any, batch: "Batch", *, label_smoothing: float = 0.0
    ) -> tuple["Tensor", "Tensor"]:
        from examples.extending.heads.rating import rating_losses

        losses = rating_losses(outputs.logits, batch["labels"])
        return losses, losses.new_ones(len(losses))

    def predictions(self, outputs: Any, batch: "Batch") -> dict[str, "Tensor"]:
        found = {"levels": outputs.logits.float().sigmoid()}
        return {**found, "references": batch["labels"]} if "labels" in batch else found

    def comparison(self, columns: "Columns", rows: "SampleRows") -> "Comparison | None":
        from trainer.tasks.comparison import Comparison

        if "references" not in columns:
            return None
        grades = (columns["levels"].values > 0.5).sum(-1)
        return Comparison("classes", grades, columns["references"].values)

    def answers(self, columns: "Columns", rows: "SampleRows") -> list[dict[str, Any]]:
        assert self.grades is not None
        numbers = (columns["levels"].values > 0.5).sum(-1)
        return [{"grade": self.grades[number]} for number in numbers]

    def _grade_index(self, cell: Any, row: int) -> int:
        assert self.grades is not None
        grade = _grade(cell, row)
        if grade not in self.grades:
            accepted = ", ".join(f"{each:g}" for each in self.grades)
            raise AnswerError(row, f"found the grade {grade:g}; accepted: {accepted}")
        return self.grades.index(grade)


def _grade(cell: Any, row: int) -> float:
    try:
        return float(cell)
    except (TypeError, ValueError):
        raise AnswerError(row, f"found the grade {cell!r:.40}; accepted: a number") from None
