"""Multiple choice: predicts which of several choices belongs to a text."""

from collections.abc import Mapping
from typing import Any, ClassVar

from trainer.errors import InputError
from trainer.pipelines.of_recipe import Pipeline, listed_rows


class MultipleChoicePipeline(Pipeline):
    """`pipeline("multiple-choice", model)({"text": ..., "choices": [...]})`."""

    head: ClassVar[str] = "multiple_choice"

    def __call__(self, inputs: Any) -> Any:
        """Answer a row: `{"choice", "score", "choice_text", "choice_probabilities"}`.

        For a list of rows, a list is returned. A row has the columns that the model was trained on:
        text and choices, unless the recipe names others.
        """
        rows = listed_rows(inputs)
        if wrong := [row for row in rows if not isinstance(row, Mapping)]:
            accepted = f"a row {{{', '.join(self.recipe.text_columns)}}}, or a list of rows"
            raise InputError(f"pipeline: found {wrong[0]!r:.60}; accepted: {accepted}")
        found = self.answers(rows)
        return found[0] if isinstance(inputs, Mapping) else found
