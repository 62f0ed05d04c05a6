"""Multiple choice: picks the choice that fits a text; rows may have any number of choices."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from trainer.data.choice_rows import MIN_CHOICES, ChoiceRows
from trainer.data.rows import text_column
from trainer.errors import InputError
from trainer.tasks.choice_answers import choice_answers, choice_predictions, num_choices
from trainer.tasks.recipe import Axis, Head, Recipe
from trainer.tasks.setting_checks import check_least
from trainer.tasks.text_pairs import encoded_groups

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.data.batch import Batch
    from trainer.data.sample_rows import SampleRows
    from trainer.models.heads.multiple_choice import MultipleChoiceModelOutput
    from trainer.tasks.columns import Columns
    from trainer.tokenizer import Tokenizer


@dataclass(frozen=True)
class MultipleChoice(Recipe):
    """Choose one of several texts, such as an answer to a question or the end of a story."""

    text: str = "text"
    """Column of the text with which every choice is paired."""
    start: str | None = None
    """Column of a text to put before every choice, such as sent2 of SWAG; null: none."""
    choices: str | list[str] = "choices"
    """Column with a list of choices (or {text: [...], label: [...]}), or several columns with a
    choice each."""
    label: str = "label"
    """Column of the correct choice: its index from 0, its label (such as A) or its text."""
    max_length: int = 128
    """Pairs with more tokens are cut to this many, from the longer text first."""
    slices: str | None = None
    """Column whose values split evaluations into slices with separate metrics, such as
    eval_<value>_accuracy.
    """

    fields: ClassVar[Mapping[str, Axis]] = {"labels": "sample"}
    predicted: ClassVar[Mapping[str, Axis]] = {
        "predictions": "sample",
        "probabilities": "sequence",
        "references": "sample",
    }
    metric_for_best_model: ClassVar[str] = "accuracy"
    compares: ClassVar[str] = "classes"
    has_classes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_least(self, 1, "max_length")
        columns = [self.choices] if isinstance(self.choices, str) else self.choices
        if len(set(columns)) < len(columns) or (self.choices is columns and len(columns) < 2):
            found = f"found {list(columns)}"
            raise InputError(f"recipe.choices: {found}; accepted: a column of lists, or columns")

    @property
    def text_columns(self) -> tuple[str, ...]:
        starts = () if self.start is None else (self.start,)
        return (self.text, *starts, *self._rows.columns)

    @property
    def example_row(self) -> dict[str, Any]:
        columns = self._rows.columns
        texts = [f"choice {n + 1}" for n in range(max(len(columns), MIN_CHOICES))]
        in_lists = isinstance(self.choices, str)
        choices = {columns[0]: texts} if in_lists else dict(zip(columns, texts, strict=True))
        return {**super().example_row, **choices}

    @property
    def answer_columns(self) -> tuple[str, ...]:
        return (self.label,)

    @property
    def _rows(self) -> ChoiceRows:
        return ChoiceRows(self.choices, self.label)

    @property
    def head(self) -> Head:
        return Head("multiple_choice")

    def features(
        self, rows: Mapping[str, Sequence[Any]], tokenizer: "Tokenizer"
    ) -> dict[str, list[Any]]:
        texts = text_column(rows, self.text, "recipe.text")
        starts = None if self.start is None else text_column(rows, self.start, "recipe.start")
        choices = self._rows.choices(rows)
        ends = choices
        if starts is not None:
            both = zip(starts, choices, strict=True)
            ends = [[f"{start} {choice}" for choice in own] for start, own in both]
        columns = encoded_groups(ends, tokenizer, self.max_length, first=texts)
        if self.label in rows:
            columns["labels"] = self._rows.labels(rows)
        return columns

    def loss(
        self, outputs: "MultipleChoiceModelOutput", batch: "Batch", *, label_smoothing: float = 0.0
    ) -> tuple["Tensor", "Tensor"]:
        from trainer.tasks.losses import grouped_cross_entropy

        assert outputs.logits is not None
        assert not label_smoothing, "refused: has_classes is False"
        return grouped_cross_entropy(outputs.logits, num_choices(batch), batch["labels"])

    def counts(self, batch: "Batch") -> "Tensor":
        return (batch["labels"] >= 0).float()

    def predictions(
        self, outputs: "MultipleChoiceModelOutput", batch: "Batch"
    ) -> dict[str, "Tensor"]:
        assert outputs.logits is not None
        found = choice_predictions(outputs.logits, num_choices(batch))
        return found | ({"references": batch["labels"]} if "labels" in batch else {})

    def answers(self, columns: "Columns", rows: "SampleRows") -> list[dict[str, Any]]:
        def texts(sample: int) -> list[str] | None:
            return self._rows.choices_of(rows[sample], sample) if rows.known else None

        return choice_answers(columns, texts)
