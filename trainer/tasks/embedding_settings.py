"""Checks the settings of recipe=sentence_embedding, and training rows against the settings."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from trainer.data.text_groups import TextColumns, refuse_missing
from trainer.errors import InputError
from trainer.tasks.setting_checks import (
    check_choices,
    check_least,
    check_positive,
    check_score_range,
)

if TYPE_CHECKING:
    from datasets import Dataset

SCORED = ("cosine", "cosent")
"""Objectives that learn from a score per pair; the others learn from matching pairs."""
GROUPED = ("in_batch", "cosent")
"""Objectives that compare samples with each other."""
CHOICES = {
    "objective": ("in_batch", "triplet", "cosine", "cosent"),
    "pooling": ("mean", "first", "last", "weighted"),
    "compare": ("auto", "scores", "retrieval"),
    "repeated_pairs": ("refuse", "allow"),
}


class Settings(Protocol):
    """The settings of a recipe that depend on each other."""

    @property
    def objective(self) -> str: ...
    @property
    def group_size(self) -> int: ...
    @property
    def score_range(self) -> Sequence[float]: ...
    @property
    def matryoshka(self) -> Sequence[int]: ...
    @property
    def matryoshka_weights(self) -> Sequence[float]: ...
    @property
    def prompts(self) -> dict[str, str]: ...
    @property
    def prompt(self) -> str | None: ...


def check_settings(recipe: Settings) -> None:
    """Raise InputError for invalid values, and for values that conflict."""
    check_choices(recipe, CHOICES)
    check_positive(recipe, "temperature", "max_length", "dimensions")
    check_least(recipe, 0, "texts_per_pass")
    _check_group(recipe)
    check_score_range(recipe.score_range)
    sizes, weights = list(recipe.matryoshka), list(recipe.matryoshka_weights)
    if any(size < 1 for size in sizes) or len(set(sizes)) < len(sizes):
        raise InputError(f"recipe.matryoshka: found {sizes}; accepted: different sizes above 0")
    if weights and (len(weights) != len(sizes) or min(weights) < 0):
        wanted = f"accepted: {len(sizes)} weights, one for each size of recipe.matryoshka"
        raise InputError(f"recipe.matryoshka_weights: found {weights}; {wanted}")
    if recipe.prompt is not None and recipe.prompt not in recipe.prompts:
        names = ", ".join(recipe.prompts) or "none"
        raise InputError(f"recipe.prompt: found '{recipe.prompt}'; recipe.prompts has: {names}")


def check_rows(recipe: Settings, rows: "Dataset", columns: TextColumns) -> None:
    """Raise InputError for rows that lack columns, or have scores that would be ignored."""
    needed = {"recipe.text": columns.anchor, "recipe.text_pair": columns.positive}
    if recipe.objective == "triplet":
        needed["recipe.negative"] = columns.negative
    if recipe.objective in SCORED:
        assert columns.score is not None
        needed["recipe.label"] = columns.score
    refuse_missing(rows, needed, recipe.objective)
    if recipe.objective in GROUPED and len(rows) < 2:
        raise InputError(
            "dataset.train: found 1 row; accepted: 2 or more, since the loss compares rows"
        )
    if recipe.objective not in SCORED and columns.score in rows.column_names:
        found = f"training rows have scores ('{columns.score}'), which {recipe.objective} ignores"
        raise InputError(f"recipe.label: {found}; accepted: no such column, or objective=cosent")


def _check_group(recipe: Settings) -> None:
    compares = recipe.objective in GROUPED
    if compares and recipe.group_size < 2:
        accepted = (
            f"accepted: 2 or more, since recipe.objective={recipe.objective} compares samples"
        )
        raise InputError(f"recipe.group_size: found {recipe.group_size}; {accepted}")
    if not compares and recipe.group_size != 1:
        accepted = f"accepted: 1 with recipe.objective={recipe.objective}"
        raise InputError(f"recipe.group_size: found {recipe.group_size}; {accepted}")
