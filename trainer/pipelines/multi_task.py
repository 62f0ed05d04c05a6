"""Multi-task: predicts answers with a model that has a head for each of several tasks."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

from trainer.errors import InputError, nearest
from trainer.pipelines.of_recipe import Pipeline

Answer: TypeAlias = dict[str, Any]


class MultiTaskPipeline(Pipeline):
    """`pipeline("multi-task", model)("I like it.", task="sentiment")`."""

    head: ClassVar[str] = "multi_task"

    def __call__(self, inputs: object, *, task: str | None = None) -> Answer | list[Answer]:
        """The answer for a text or row, or the answers for a list, each with the name of its task.

        The argument `task` is the task of all texts, and of the rows that do not name one in the
        recipe's task column. A text is used as the first column that its task reads. Raises
        InputError for an input without a task, and for an unknown task.
        """
        if isinstance(inputs, (str, Mapping)):
            return self.answers([self._row(inputs, task)])[0]
        if not isinstance(inputs, Sequence):
            found = type(inputs).__name__
            raise InputError(f"pipeline: found {found}; accepted: a text, a row, or a list of them")
        return self.answers([self._row(each, task) for each in inputs])

    def _row(self, item: object, task: str | None) -> dict[str, Any]:
        column: str = self.recipe.task_column  # type: ignore[attr-defined]
        tasks: Mapping[str, Any] = self.recipe.tasks  # type: ignore[attr-defined]
        row = dict(item) if isinstance(item, Mapping) else {}
        name = str(row.get(column, task))
        if name not in tasks:
            hint = nearest(name, list(tasks))
            raise InputError(f"pipeline: task: found '{name}'; accepted: {', '.join(tasks)}{hint}")
        if isinstance(item, str):
            row = {tasks[name].text_columns[0]: item}
        return {**row, column: name}
