"""Pipeline: predicts answers for rows with a model, its recipe and its tokenizer."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from trainer.data.row_locations import copy_locations
from trainer.errors import InputError
from trainer.settings import TrainSettings
from trainer.tasks.recipe import Recipe

if TYPE_CHECKING:
    from datasets import Dataset

    from trainer.callbacks.callback import Callback
    from trainer.tasks.processor import Processor
    from trainer.tokenizer import Tokenizer


def listed_rows(inputs: object) -> list[Any]:
    """The rows of a list or another iterable; a mapping, or what is no iterable, is one row."""
    if isinstance(inputs, Mapping) or not isinstance(inputs, Iterable):
        return [inputs]
    return list(inputs)


class Pipeline:
    """A model with its recipe and its tokenizer or processor. Subclasses define `__call__`."""

    head: ClassVar[str] = ""
    """The head that the model must have: a key of `trainer.models.auto.TASKS`."""

    def __init__(
        self,
        model: Any,
        recipe: Recipe,
        tokenizer: "Processor | None",
        settings: TrainSettings,
        callbacks: "Sequence[Callback]" = (),
    ) -> None:
        from trainer.trainer import Trainer

        self.recipe = recipe
        self.model = model
        self.tokenizer = tokenizer
        self.settings = settings
        self._trainer = Trainer(
            model, recipe, settings, tokenizer=tokenizer, callbacks=callbacks, progress=False
        )

    @property
    def tokens(self) -> "Tokenizer":
        """The tokenizer. Raises InputError for a recipe that does not read text."""
        from trainer.tokenizer import Tokenizer

        if not isinstance(self.tokenizer, Tokenizer):
            raise InputError("pipeline: the model does not read text")
        return self.tokenizer

    def __call__(self, inputs: object) -> Any:
        """The answers to one input or several, in the format of transformers' pipelines."""
        raise AssertionError(f"{type(self).__name__} cannot be called")

    def answers(self, rows: "Sequence[Mapping[str, Any]] | Dataset") -> list[dict[str, Any]]:
        """The recipe's answer to each row, including probabilities."""
        if not len(rows):
            return []
        return self._trainer.answers(self._input_rows(rows))

    def predictions(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The recipe's predictions for each row, by name (`Trainer.predict`)."""
        return self._trainer.predict(self._input_rows(rows))

    def _input_rows(self, rows: "Sequence[Mapping[str, Any]] | Dataset") -> object:
        """The rows with only the columns that predictions are made from."""
        names = self.recipe.text_columns
        if isinstance(rows, Sequence):
            self.recipe.refuse_unread({name for row in rows for name in row})
            return [{name: row[name] for name in names if name in row} for row in rows]
        self.recipe.refuse_unread(rows.column_names)
        kept = [name for name in names if name in rows.column_names]
        return copy_locations(rows.select_columns(kept), rows)
