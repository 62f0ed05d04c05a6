"""Multi-task: trains one model on several tasks; each row names its task."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from trainer.data.task_rows import rows_by_task, tables_by_task
from trainer.errors import InputError, nearest
from trainer.tasks.recipe import Head
from trainer.tasks.shared_model import SharedModel

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor, nn

    from trainer.data.batch import Samples
    from trainer.data.sample_rows import SampleRows
    from trainer.tasks.columns import Columns
    from trainer.tasks.processor import Processor, SampleContext


@dataclass(frozen=True)
class MultiTask(SharedModel):
    """Train one body with a head for each task.

    The loss of a global batch is the weighted sum of the losses of the tasks. The loss of each task
    is divided by the count of that task in the whole global batch.
    """

    tasks: dict[str, Any] = field(default_factory=dict)
    """The recipe of each task: {NAME: {recipe: sequence_classification, label: stars}, ...}."""
    weights: dict[str, float] = field(default_factory=dict)
    """Weight of each task's loss; 1 for tasks not listed."""
    metrics: dict[str, list[str]] = field(default_factory=dict)
    """Names of each task's metrics; tasks not listed have their default metrics."""
    task_column: str = "task"
    """Column with the task of each row."""
    task: str | None = None
    """The task of all rows, which then need no task column; null: task_column has the tasks."""
    export: bool = False
    """Whether to also write a separate model for each task, to the folder tasks/NAME."""

    holds_recipes: ClassVar[tuple[str, ...]] = ("tasks",)

    def __post_init__(self) -> None:
        names = list(self.task_set.recipes)
        if self.task is not None and self.task not in names:
            self.task_set.require_some()
            accepted = f"accepted: {', '.join(names)}{nearest(self.task, names)}"
            raise InputError(f"recipe.task: found '{self.task}'; {accepted}")

    @property
    def head(self) -> Head:
        from trainer.tasks.label_config import plain_json

        self.task_set.require_some()
        heads = {}
        for name in self.tasks:
            with self.task_set.named(name) as recipe:
                own = recipe.head
            heads[name] = {"head": own.task, "config": plain_json(own.config)}
        return Head("multi_task", {"task_heads": heads})

    def learn(self, rows: "Dataset", *held_out: "Dataset") -> "MultiTask":
        self.task_set.require_some()
        tables, others = self.tables(rows), [self.tables(each) for each in held_out]
        learnt = {}
        for name in self.tasks:
            if name not in tables:
                accepted = f"accepted: some with {self.task_column}={name}, or no such task"
                raise InputError(f"recipe.tasks.{name}: no training row has this task; {accepted}")
            with self.task_set.named(name) as recipe:
                learnt[name] = recipe.learn(tables[name], *(t[name] for t in others if name in t))
        found = replace(self, tasks=learnt)
        found.task_set.measures()  # raises an error for metrics that do not fit the learnt labels
        return found

    def samples(
        self, rows: "Dataset", processor: "Processor | None", context: "SampleContext"
    ) -> "Samples":
        from trainer.data.task_samples import TaskSamples
        from trainer.tasks.task_batches import counts_by

        self.task_set.require_some()
        numbers = rows_by_task(rows, self.task_column, list(self.tasks), self.task)
        tables: dict[str, Any] = {}
        for name, own in tables_by_task(rows, numbers).items():
            with self.task_set.named(name) as recipe:
                tables[name] = context.tokenize(own, recipe)
        counts = counts_by(self.tasks, tables)
        return TaskSamples.of(tables, numbers, self.task_set.all_weights, counts)

    def settle(self, columns: "Columns", rows: "SampleRows") -> "MultiTask":
        parts = self.parts(columns, rows)
        settled = {part.name: part.recipe.settle(part.columns, part.rows) for part in parts}
        return replace(self, tasks={**self.tasks, **settled})

    @property
    def writes_parts(self) -> bool:
        return self.export

    def write_parts(
        self,
        directory: Path,
        model: "nn.Module",
        tokenizer: "Processor | None",
        weights: "Mapping[str, Tensor] | None",
    ) -> None:
        from trainer.tasks.task_export import write_tasks

        if self.export:
            write_tasks(directory / "tasks", self.tasks, model, tokenizer, weights)
