"""SharedModel: a recipe that combines the recipes of several tasks on one model."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from trainer.data.rows import column_of
from trainer.data.task_rows import rows_by_task, tables_by_task
from trainer.models.outputs import Outputs
from trainer.tasks.recipe import Part, Recipe
from trainer.tasks.task_set import TaskSet

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

    from trainer.data.batch import Batch, OwnBatch
    from trainer.data.sample_rows import SampleRows
    from trainer.tasks.columns import Columns
    from trainer.tokenizer import Tokenizer


class SharedModel(Recipe):
    """Several recipes; a column names each row's task. Subclasses define these options."""

    tasks: dict[str, Any]
    weights: dict[str, float]
    metrics: dict[str, list[str]]
    task_column: str
    task: str | None

    @cached_property
    def task_set(self) -> TaskSet:
        """The recipes of the tasks, checked together."""
        return TaskSet(self.tasks, self.weights, self.metrics)

    @property
    def predicted(self) -> Mapping[str, Any]:  # type: ignore[override]
        return {"task": "sample", **self.task_set.axes()}

    @property
    def measures(self) -> Mapping[str, bool]:  # type: ignore[override]
        return self.task_set.measures()

    @property
    def _possible_recipes(self) -> "list[Recipe]":
        """The recipes of the tasks that rows may have."""
        return [r for name, r in self.tasks.items() if self.task in (None, name)]

    @property
    def text_columns(self) -> tuple[str, ...]:
        columns = [column for recipe in self._possible_recipes for column in recipe.text_columns]
        return tuple(dict.fromkeys(columns if self.task else [self.task_column, *columns]))

    @property
    def needed_columns(self) -> tuple[str, ...]:
        return self.text_columns if self.task else (self.task_column,)

    @property
    def example_row(self) -> dict[str, Any]:
        name = self.task or next(iter(self.tasks))
        row: dict[str, Any] = self.tasks[name].example_row
        return row if self.task else {self.task_column: name, **row}

    @property
    def max_tokens(self) -> int | None:
        return max((recipe.max_tokens or 0 for recipe in self.tasks.values()), default=0) or None

    @property
    def has_classes(self) -> bool:
        return any(recipe.has_classes for recipe in self.tasks.values())

    @property
    def label_rule(self) -> str | None:
        rules = {name: recipe.label_rule for name, recipe in self.tasks.items()}
        return "; ".join(f"{name}: {rule}" for name, rule in rules.items() if rule) or None

    def texts(self, rows: "Dataset") -> Iterator[str]:
        for name, table in self.tables(rows).items():
            yield from self.tasks[name].texts(table)

    def prepare(self, tokenizer: "Tokenizer") -> None:
        for recipe in self.tasks.values():
            recipe.prepare(tokenizer)

    def num_read_tokens(self, rows: Mapping[str, Sequence[Any]], tokenizer: "Tokenizer") -> int:
        """The number of tokens that the model reads; rows of unknown tasks have none."""
        tasks: Sequence[Any] = [self.task] * max(map(len, rows.values()), default=0)
        if self.task is None:
            tasks = column_of(rows, self.task_column, "recipe.task_column")
        found = 0
        for name, recipe in self.tasks.items():
            own = [number for number, task in enumerate(tasks) if task == name]
            if own:
                columns = {column: [cells[n] for n in own] for column, cells in rows.items()}
                found += recipe.num_read_tokens(columns, tokenizer)
        return found

    def class_counts(self, samples: Any) -> dict[str, int]:
        return {
            f"{name}: {label}": count
            for name, table in samples.tables.items()
            for label, count in self.tasks[name].class_counts(table).items()
        }

    def has_loss(self, batch: "OwnBatch") -> bool:
        return all(self.tasks[name].has_loss(part) for name, part in batch.parts.items())

    def loss(
        self, outputs: Outputs, batch: "Batch", *, label_smoothing: float = 0.0
    ) -> tuple["Tensor", "Tensor"]:
        from trainer.tasks.task_batches import weighted_losses

        return weighted_losses(self.tasks, outputs, batch, label_smoothing)

    def predictions(self, outputs: Outputs, batch: "Batch") -> dict[str, "Tensor"]:
        from trainer.tasks.task_batches import predictions_of

        return predictions_of(self.tasks, outputs, batch)

    def measure(self, loss: float, columns: "Columns") -> dict[str, float]:
        """Return NaN for the results of tasks without rows in the data set."""
        present = set(columns["task"].values.tolist())
        absent = [name for index, name in enumerate(self.tasks) if index not in present]
        results = [result for name in absent for result in self.task_set.measures_of(name)]
        return dict.fromkeys(results, float("nan"))

    def parts(self, columns: "Columns", rows: "SampleRows") -> "list[Part]":
        return self.task_set.parts(columns, rows)

    def answers(self, columns: "Columns", rows: "SampleRows") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = [{} for _ in range(len(rows))]
        for part in self.parts(columns, rows):
            answers = part.recipe.answers(part.columns, part.rows)
            for sample, answer in zip(part.samples.tolist(), answers, strict=True):
                found[sample] = {"task": part.name, **answer}
        return found

    def tables(self, rows: "Dataset") -> "dict[str, Dataset]":
        """The rows of each task, in the order of the tasks; tasks without rows are absent."""
        return tables_by_task(
            rows, rows_by_task(rows, self.task_column, list(self.tasks), self.task)
        )
