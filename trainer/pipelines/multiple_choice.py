"""Multiple choice: predicts which of several choices belongs to a text."""

from collections.abc import Mapping
from typing import Any, ClassVar

from trainer.pipelines.of_recipe import Pipeline


class MultipleChoicePipeline(Pipeline):
    """`pipeline("multiple-choice", model)({"text": ..., "choices": [...]})`."""

    head: ClassVar[str] = "multiple_choice"

    def __call__(self, inputs: Any) -> Any:
        """Answer a row: `{"choice", "score", "choice_text", "choice_probabilities"}`.

        For a list of rows, a list is returned. A row has the columns that the model was trained on:
        text and choices, unless the recipe names others.
        """
        found = self.answers([inputs] if isinstance(inputs, Mapping) else list(inputs))
        return found[0] if isinstance(inputs, Mapping) else found
