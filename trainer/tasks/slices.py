"""Slices: groups of a data set's samples that an evaluation measures separately."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from trainer.errors import InputError
from trainer.tasks.columns import Column, Columns, part_of
from trainer.tasks.recipe import Part, Recipe
from trainer.tasks.token_prediction import SEQUENCE_SUMS

if TYPE_CHECKING:
    from trainer.data.sample_rows import SampleRows

LONGEST_NAME = 40
"""The maximum number of characters that a slice's name takes from its cell."""
MOST_SLICES = 100
"""The maximum number of distinct cells; a column with more does not make useful slices."""


def slices_of(recipe: Recipe, columns: Columns, rows: "SampleRows") -> list[Part]:
    """A `Part` for each distinct cell of the column `recipe.slices`, in the order of their names.

    Empty cells form the slice "none". If the recipe packs blocks, a slice holds the sequences of
    its documents, and only token losses are measured. Raises InputError if the column has more than
    MOST_SLICES distinct cells, or cells whose names would be equal.
    """
    column = recipe.sliced_by
    if column is None or column not in rows.column_names or not columns:
        return []  # only rows for prediction may lack the column; see `check_slices`
    if recipe.blocks is not None:
        return _slices_of_blocks(recipe, columns, rows.of_sequences(), column)
    parts = []
    for name, samples in _members(rows, column).items():
        predictions = {key: part_of(each, samples) for key, each in columns.items()}
        parts.append(Part(name, samples, recipe, predictions, rows.of_samples(samples)))
    return parts


def _slices_of_blocks(
    recipe: Recipe, columns: Columns, rows: "SampleRows", column: str
) -> list[Part]:
    """Like `slices_of`, for blocks; `rows` are those of the sequences."""
    losses, tokens, correct = (columns[name].values for name in SEQUENCE_SUMS)
    parts = []
    for name, chosen in _members(rows, column).items():
        predictions = {"tokens": Column(tokens[chosen]), "correct": Column(correct[chosen])}
        documents = np.unique([rows.number_of(sequence) for sequence in chosen.tolist()])
        sums = (losses[chosen], tokens[chosen])
        parts.append(Part(name, documents, recipe, predictions, rows.of_samples(chosen), {}, sums))
    return parts


def _members(rows: "SampleRows", column: str) -> dict[str, np.ndarray]:
    """Name of a slice -> the indices of its samples, in the order of the names."""
    names: dict[str, str] = {}
    members: dict[str, list[int]] = {}
    for number, cell in enumerate(rows.column(column)):
        name, text = slice_name(cell), "" if cell is None else str(cell)
        if names.setdefault(name, text) != text:
            found = f"'{column}' has {names[name]!r:.60} and {text!r:.60}, both named {name}"
            raise InputError(f"recipe.slices: {found}; accepted: cells with different names")
        members.setdefault(name, []).append(number)
        if len(members) > MOST_SLICES:
            found = f"'{column}' has more than {MOST_SLICES} different cells"
            raise InputError(f"recipe.slices: {found}; accepted: a column with few groups")
    return {name: np.array(members[name], dtype=np.int64) for name in sorted(members)}


def slice_name(cell: object) -> str:
    """The name of a cell's slice, in which only letters, digits, -, . and _ remain."""
    text = "none" if cell is None or cell == "" else str(cell)
    kept = "".join(c if c.isalnum() or c in "-." else "_" for c in text[:LONGEST_NAME])
    return kept.strip("_") or "none"


def check_slices(recipe: Recipe, rows: object, where: str) -> None:
    """Raise InputError if the rows of an evaluation lack the column of `recipe.slices`.

    Of several tasks, those that the rows may have need their columns too.
    """
    tasks: Mapping[str, Recipe] = getattr(recipe, "tasks", {})
    only = getattr(recipe, "task", None)
    options = {f"recipe.tasks.{n}": each for n, each in tasks.items() if only in (None, n)}
    for option, reader in {"recipe": recipe, **options}.items():
        if isinstance(reader, Recipe) and (column := reader.sliced_by) is not None:
            _check_column(f"{option}.slices", column, rows, where)


def _check_column(option: str, column: str, rows: object, where: str) -> None:
    names = getattr(rows, "column_names", None)
    if names is None:
        raise InputError(f"{option}: {where} has no columns; accepted: rows, or null")
    if column not in names:
        known = ", ".join(names)
        raise InputError(f"{option}: {where} has no column '{column}'; there are: {known}")
