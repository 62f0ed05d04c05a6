"""Recipe: the questions that every task answers."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from trainer.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from torch import Tensor

    from trainer.data.batch import Batch, Samples
    from trainer.data.blocks import Blocks
    from trainer.tokenizer import Tokenizer

Axis = Literal["token", "sequence", "sample"]
"""What one entry of a field belongs to; a sample is one sequence or more."""


@dataclass(frozen=True)
class Head:
    """Which head a task needs: its name, and the config.json fields that it sets."""

    task: str
    """A key of `trainer.models.auto.TASKS`, such as "sequence_classification"."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Entries of config.json, such as id2label and problem_type."""


class Recipe:
    """One task. A recipe is called by the Trainer and never calls it.

    Subclasses are frozen dataclasses whose fields are the options that a user may set.
    """

    fields: ClassVar[Mapping[str, Axis]] = {}
    """The columns beside input_ids that `features` makes, and what one entry of each belongs to."""

    measures: ClassVar[Mapping[str, bool]] = {}
    """What `measure` computes, and whether a greater value is better."""

    @property
    def metric_for_best_model(self) -> str:
        """The metric that means "better" when the settings name none."""
        return "loss"

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The columns that a row to predict on must have."""
        return ()

    def texts(self, rows: "Dataset") -> Iterable[str]:
        """The texts of rows, for a tokenizer to be learnt from."""
        from trainer.data.rows import text_column

        if not self.text_columns:
            name = type(self).__name__
            raise InputError(f"tokenizer.train: {name} has no column of plain texts to learn from")
        for column in self.text_columns:
            yield from text_column(rows, column, "recipe.text")

    @property
    def answer_columns(self) -> tuple[str, ...]:
        """The columns that hold the answers, which a row to predict on need not have."""
        return ()

    def refuse_unread(self, columns: Iterable[str]) -> None:
        """Raise InputError for a column that other recipes of this kind would read."""

    @property
    def label_rule(self) -> str | None:
        """What was found in the columns of answers, in words."""
        return None

    def class_counts(self, samples: "Samples") -> dict[str, int]:
        """How many samples have each label, where samples have some."""
        return {}

    @property
    def class_names(self) -> list[str] | None:
        """What the ids in `predictions` mean, where a sample has exactly one; for reports."""
        return None

    @classmethod
    def fields_of_config(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """The fields that a foreign model's config.json tells, such as its label names."""
        return {}

    def learn(self, rows: "Dataset", *held_out: "Dataset") -> Self:
        """This recipe, completed by what it must know of the training rows (label names, say).

        Of the held-out rows it may learn the names of classes too rare to be in the others.
        """
        return self

    @property
    def blocks(self) -> "Blocks | None":
        """How the rows' tokens, one text after the other, are cut into samples; None: one a row."""
        return None

    def prepare(self, tokenizer: "Tokenizer") -> None:
        """Give the tokenizer what the task cannot do without, such as a chat template."""

    def features(
        self, rows: Mapping[str, Sequence[Any]], tokenizer: "Tokenizer"
    ) -> dict[str, list[Any]]:
        """Columns of text to columns of ids: `input_ids`, perhaps `token_type_ids`, and `fields`.

        A sample of several sequences has a list of lists in `input_ids`. Rows without answers
        (to predict on) give no answer columns. The user is told of one more column:
        `num_truncated_tokens`, cut off each row. Raises RowError for a row that cannot be used,
        AnswerError where that is its answer's fault; dataset.bad_rows decides what happens then.
        """
        raise AssertionError(f"{type(self).__name__} does not make features")

    def doubt(self, samples: "Samples", model: Any, tokenizer: "Tokenizer") -> str | None:
        """What speaks against training on these samples, which can be done; told to the user."""
        return None

    @property
    def head(self) -> Head:
        """The head that the model must have for this task."""
        raise AssertionError(f"{type(self).__name__} names no head")

    def has_loss(self, batch: "Batch") -> bool:
        """Whether the batch holds the answers that the loss compares with."""
        return all(name in batch for name in self.fields)

    def loss(
        self, outputs: Any, batch: "Batch", *, label_smoothing: float = 0.0
    ) -> tuple["Tensor", "Tensor"]:
        """(sum, count) of the loss: scalars, or one entry per sample. Only the Trainer divides."""
        raise AssertionError(f"{type(self).__name__} has no loss")

    def predictions(self, outputs: Any, batch: "Batch") -> dict[str, "Tensor"]:
        """What the metrics eat: `predictions` and, where known, `references`, a row a sample."""
        return {}

    def measure(self, loss: float, predictions: Mapping[str, "np.ndarray"]) -> dict[str, float]:
        """The task's own figures of an evaluation, whatever metrics are chosen."""
        return {}

    def trained_on(self, batch: "Batch") -> "Tensor | None":
        """[T] bool, which tokens the model learns to write; None where answers are no tokens."""
        return None

    def answers(self, predictions: Mapping[str, "np.ndarray"]) -> list[dict[str, Any]]:
        """The same predictions in the user's words: a label and its probability, say."""
        return [{} for _ in next(iter(predictions.values()), ())]


@dataclass(frozen=True)
class LossOnly(Recipe):
    """The recipe of a plain loss callable: `function(outputs, batch)` returns (sum, count)."""

    function: Callable[[Any, Any], tuple["Tensor", "Tensor"]]

    def loss(
        self, outputs: Any, batch: "Batch", *, label_smoothing: float = 0.0
    ) -> tuple["Tensor", "Tensor"]:
        from trainer.precision import in_fp32

        if label_smoothing:
            raise InputError("trainer.label_smoothing: a plain loss function smooths by itself")
        found = self.function(in_fp32(outputs), batch)
        if not (isinstance(found, (tuple, list)) and len(found) == 2):
            what = f"{type(found).__name__}, a mean perhaps"
            accepted = "(sum, count), which are divided over the whole global batch"
            raise InputError(f"loss: the function returned {what}; accepted: {accepted}")
        return found[0], found[1]
