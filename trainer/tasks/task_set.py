"""TaskSet: checks the recipes that share a model, with their weights and metrics."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.errors import InputError, RowError, nearest
from trainer.metrics.metric import Metric
from trainer.metrics.named import metrics_of
from trainer.tasks.columns import Column, Columns, part_of
from trainer.tasks.recipe import Part, Recipe

if TYPE_CHECKING:
    from trainer.data.sample_rows import SampleRows

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
DEFAULT_METRICS = {
    "classes": ("accuracy", "f1_macro"),
    "label_sets": ("f1_macro", "f1_micro"),
    "numbers": ("pearson", "spearman"),
    "answers": ("squad",),
}
"""The kind of a task's comparison (`Recipe.compares`) -> the task's default metrics."""


@dataclass(frozen=True)
class TaskSet:
    """Recipes by task name. Raises InputError for tasks that cannot be trained together."""

    recipes: Mapping[str, Recipe]
    weights: Mapping[str, float]
    """The weight of each task's loss; 1 by default."""
    chosen: Mapping[str, Sequence[str]]
    """Task -> names of its metrics; by default the recipe's usual ones, or DEFAULT_METRICS."""

    def __post_init__(self) -> None:
        for name, recipe in self.recipes.items():
            _check_name(name, self.recipes)
            if (why := _obstacle(recipe)) is not None:
                accepted = "accepted: recipes such as sequence_classification, token_classification"
                raise InputError(f"recipe.tasks.{name}: {why}; {accepted}")
        for option, given in (("weights", self.weights), ("metrics", self.chosen)):
            for name in given:
                if name not in self.recipes:
                    accepted = f"accepted: {', '.join(self.recipes)}{nearest(name, self.recipes)}"
                    raise InputError(f"recipe.{option}: no task '{name}'; {accepted}")
        for name, weight in self.weights.items():
            if not 0 <= weight < float("inf"):
                raise InputError(f"recipe.weights.{name}: found {weight}; accepted: 0 or more")
        if self.recipes and not any(self.all_weights.values()):
            raise InputError("recipe.weights: all are 0; accepted: at least one above 0")

    def require_some(self) -> None:
        """Raise InputError if there is no task."""
        if not self.recipes:
            accepted = "accepted: {NAME: {recipe: sequence_classification, ...}, ...}"
            raise InputError(f"recipe.tasks: found none; {accepted}")

    @property
    def all_weights(self) -> dict[str, float]:
        """The weight of every task's loss, with the defaults."""
        return {name: float(self.weights.get(name, 1.0)) for name in self.recipes}

    @contextmanager
    def named(self, name: str) -> Iterator[Recipe]:
        """Context manager that yields a task's recipe; errors raised inside name the task."""
        try:
            yield self.recipes[name]
        except RowError as error:
            raise type(error)(error.row, f"task '{name}': {error}") from error
        except InputError as error:
            text = str(error)
            own = text.startswith("recipe.") and not text.startswith("recipe.tasks.")
            if not own:
                raise
            raise InputError(f"recipe.tasks.{name}.{text.removeprefix('recipe.')}") from error

    def metrics(self, name: str) -> dict[str, Metric]:
        """The metrics of a task. Raises InputError for one that does not fit its comparison."""
        recipe = self.recipes[name]
        kind = recipe.compares
        without = kind == "answers" and getattr(recipe, "no_answer", False)
        usual = recipe.usual_metrics or DEFAULT_METRICS.get(kind or "", ())
        usual = ("squad_no_answer",) if without else usual
        found = metrics_of(list(self.chosen.get(name, usual)))
        for key, metric in found.items():
            if kind is None or (metric.kinds and kind not in metric.kinds):
                gives = f"{type(recipe).__name__} gives {kind or 'nothing to compare'}"
                compared = " or ".join(metric.kinds)
                raise InputError(f"recipe.metrics.{name}: {key} compares {compared}; {gives}")
        return found

    def measures(self) -> dict[str, bool]:
        """Whether a greater value is better, for every result of every task.

        Raises InputError if two tasks have a result of the same name, or if a metric's package is
        not installed.
        """
        found: dict[str, bool] = {}
        for name in self.recipes:
            own = self.measures_of(name)
            if both := sorted(own.keys() & found.keys()):
                raise InputError(f"recipe.tasks.{name}: another task has {both[0]} too")
            found |= own
        return found

    def measures_of(self, name: str) -> dict[str, bool]:
        """Whether a greater value is better, for every result of one task.

        Raises InputError if a metric's package is not installed.
        """
        found = {"samples": True, "loss": False, **self.recipes[name].measures}
        for metric in self.metrics(name).values():
            metric.prepare()
            found |= dict.fromkeys(metric.names(), metric.greater_is_better)
        return {f"{name}_{result}": better for result, better in found.items()}

    def axes(self) -> dict[str, Any]:
        """Column -> axis for all tasks, as in {"ner.tags": "ner/token"}; includes the losses."""
        return {
            f"{name}.{column}": f"{name}/{axis}"
            for name, recipe in self.recipes.items()
            for column, axis in {**recipe.predicted, **LOSS}.items()
        }

    def parts(self, columns: Columns, rows: "SampleRows") -> list[Part]:
        """A part for each task with samples: its samples, and its recipe's predictions."""
        if "task" not in columns:
            return []
        found = []
        for index, (name, recipe) in enumerate(self.recipes.items()):
            samples = np.flatnonzero(columns["task"].values == index)
            if not len(samples):
                continue
            axes = {**recipe.predicted, **LOSS}
            own = {
                column: _of_task(columns[f"{name}.{column}"], samples, axis)
                for column, axis in axes.items()
                if f"{name}.{column}" in columns
            }
            sums, counts = (own.pop(each, None) for each in LOSS)
            losses = None if sums is None or counts is None else (sums.values, counts.values)
            metrics = self.metrics(name)
            found.append(
                Part(name, samples, recipe, own, rows.of_samples(samples), metrics, losses)
            )
        return found


LOSS = {"loss_sums": "sample", "loss_counts": "sample"}
"""The columns of each sample's loss, before task weights and batch counts apply."""


def _of_task(column: Column, samples: np.ndarray, axis: str) -> Column:
    """Reduce a column to the samples of its task; samples of other tasks have no entries in it."""
    found = part_of(column, samples)
    return Column(found.values) if axis == "sample" else found


def _check_name(name: str, names: Mapping[str, Any]) -> None:
    if not NAME.fullmatch(name):
        found = f"found the name '{name}'"
        raise InputError(
            f"recipe.tasks: {found}; accepted: letters, digits and _, starting with a letter"
        )
    alike = [other for other in names if other.lower() == name.lower()]
    if len(alike) > 1:
        both = " and ".join(alike)
        raise InputError(f"recipe.tasks: {both} differ only in case; accepted: other names")


def _obstacle(recipe: object) -> str | None:
    """Why a recipe cannot share a model with others; None if it can."""
    if not isinstance(recipe, Recipe):
        return f"found {type(recipe).__name__}"
    kind, name = type(recipe), type(recipe).__name__
    if recipe.group_size > 1:
        return f"the loss of {name} compares samples with each other"
    if recipe.derived:
        return f"{name} needs columns that a model derives"
    if kind.evaluated is not Recipe.evaluated or bool(getattr(recipe, "adversarial", None)):
        return f"{name} writes texts in evaluations, or moves embeddings"
    if kind.counts is Recipe.counts or recipe.blocks is not None or not recipe.reads_text:
        return f"{name} does not count its answers before a forward pass"
    return None
