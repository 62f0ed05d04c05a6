"""RowPipelines: one pipeline for each combination of options of a model's recipe."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from trainer.pipelines import Pipeline
from trainer.serving.row_worker import Answer, AnswerRows, Row
from trainer.settings import TrainSettings
from trainer.tasks.recipe import Recipe

if TYPE_CHECKING:
    from trainer.models.configured import ConfiguredModel
    from trainer.models.pretrained import PretrainedModel
    from trainer.tasks.processor import Processor

Options = Mapping[str, object]
"""Name of a recipe option to change -> its new value."""


class RowPipelines:
    """The pipelines of one model: one for each combination of changed recipe options."""

    def __init__(
        self,
        model: "PretrainedModel | ConfiguredModel",
        recipe: Recipe,
        processor: "Processor | None",
        settings: TrainSettings,
    ) -> None:
        """Build the pipeline with the unchanged recipe.

        Raises InputError if the recipe does not fit the model.
        """
        self.recipe = recipe
        self._parts = model, processor, settings
        self._known: dict[tuple[tuple[str, object], ...], AnswerRows] = {}
        self.function_with({})([])

    def recipe_with(self, options: Options) -> Recipe:
        """The recipe with changed options. Raises InputError for values that it refuses."""
        changes: dict[str, Any] = dict(options)
        return replace(self.recipe, **changes)  # type: ignore[type-var]

    def function_with(self, options: Options) -> AnswerRows:
        """A function that predicts rows with these options; equal options give the same function.

        Call it only in the thread that runs the model: its first call builds a pipeline, which
        would delay other threads.
        """
        key = tuple(sorted(options.items()))
        if key not in self._known:
            self._known[key] = self._new_function(options)
        return self._known[key]

    def _new_function(self, options: Options) -> AnswerRows:
        model, processor, settings = self._parts

        @cache
        def pipeline() -> Pipeline:
            return Pipeline(model, self.recipe_with(options), processor, settings)

        def answer_rows(rows: Sequence[Row]) -> list[Answer]:
            return pipeline().answers(rows)

        return answer_rows
