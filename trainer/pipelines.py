"""Pipeline: a saved model as a function from texts to answers."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trainer.data.places import inherit
from trainer.errors import InputError, nearest
from trainer.recipe import Recipe
from trainer.settings import TrainSettings

if TYPE_CHECKING:
    from datasets import Dataset

    from trainer.callbacks.callback import Callback
    from trainer.tokenizer import Tokenizer

TASKS = {
    "text-classification": "sequence_classification",
    "sentiment-analysis": "sequence_classification",
}
"""The hub's name of a task -> the head that it needs."""


def pipeline(
    task: str,
    model: str,
    *,
    tokenizer: str | None = None,
    revision: str | None = None,
    precision: str = "fp32",
) -> "Pipeline":
    """The pipeline of a task over a model's folder, hub id or pkg:// path, ready to be called.

    The folder's recipe.json says how rows become ids; a foreign model's config.json tells its
    labels. Raises InputError for a task that is not one here, or that the model is not made for.
    """
    from trainer.launching.saved_recipe import recipe_of
    from trainer.models.auto import TASKS as MODELS
    from trainer.tokenizer import Tokenizer

    if task not in TASKS:
        raise InputError(
            f"pipeline: found '{task}'; accepted: {', '.join(TASKS)}{nearest(task, TASKS)}"
        )
    recipe = recipe_of(str(model), revision)
    if recipe.head.task != TASKS[task]:
        raise InputError(f"pipeline: {model} is made for {recipe.head.task}, not {TASKS[task]}")
    loaded = MODELS[recipe.head.task].from_pretrained(model, revision=revision)
    found = Tokenizer.from_pretrained(tokenizer or model, revision=None if tokenizer else revision)
    return Pipeline(loaded, recipe, found, TrainSettings(precision=precision))


class Pipeline:
    """A model, its recipe and its tokenizer: call it with one text or many."""

    def __init__(
        self,
        model: Any,
        recipe: Recipe,
        tokenizer: "Tokenizer",
        settings: TrainSettings,
        callbacks: "Sequence[Callback]" = (),
    ) -> None:
        from trainer.trainer import Trainer

        self.recipe = recipe
        self.model = model
        self.tokenizer = tokenizer
        self._trainer = Trainer(model, recipe, settings, tokenizer=tokenizer, callbacks=callbacks)

    def __call__(
        self, inputs: str | Sequence[str] | Mapping[str, str] | Sequence[Mapping[str, str]]
    ) -> list[dict[str, Any]]:
        """`[{"label": ..., "score": ...}]`, an answer for each text in the caller's order.

        A pair is a mapping of the recipe's two text columns ({"text": ..., "text_pair": ...}).
        """
        one = isinstance(inputs, (str, Mapping))
        several: list[Any] = [inputs] if one else list(inputs)
        answers = self.answers([self._row(each) for each in several])
        return [{k: v for k, v in answer.items() if k != "probabilities"} for answer in answers]

    def answers(self, rows: "Sequence[Mapping[str, Any]] | Dataset") -> list[dict[str, Any]]:
        """The answer to each row in the recipe's words, probabilities included."""
        if not len(rows):
            return []
        return self.recipe.answers(self._trainer.predict(self._questions(rows)))

    def _questions(self, rows: "Sequence[Mapping[str, Any]] | Dataset") -> Any:
        """The rows' texts: labels that lie beside them are not looked at."""
        names = self.recipe.text_columns
        if isinstance(rows, Sequence):
            self.recipe.refuse_unread({name for row in rows for name in row})
            return [{name: row[name] for name in names if name in row} for row in rows]
        self.recipe.refuse_unread(rows.column_names)
        kept = [name for name in names if name in rows.column_names]
        return inherit(rows.select_columns(kept), rows)

    def _row(self, given: str | Mapping[str, str]) -> Mapping[str, str]:
        if isinstance(given, Mapping):
            return given
        names = self.recipe.text_columns
        if len(names) > 1:
            raise InputError(f"pipeline: the model reads pairs; give {{{', '.join(names)}}}")
        return {names[0]: given}
