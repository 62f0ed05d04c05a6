"""Task rows: splits a table by the task of each row."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from trainer.data.row_locations import copy_locations, select_rows
from trainer.data.rows import column_of
from trainer.errors import InputError, RowError, nearest

if TYPE_CHECKING:
    from datasets import Dataset


def rows_by_task(
    rows: "Dataset", column: str, names: Sequence[str], only: str | None = None
) -> "dict[str, np.ndarray]":
    """The indices of each task's rows, in the order of `names`; tasks without rows are absent.

    With `only`, all rows belong to that task. Raises InputError if there is no column `column`, and
    RowError for a row of an unknown task.
    """
    if only is not None:
        return {only: np.arange(len(rows))}
    if column not in rows.column_names:
        existing = ", ".join(rows.column_names)
        accepted = "accepted: a column with the task of each row, or recipe.task=NAME"
        raise InputError(
            f"recipe.task_column: no column '{column}'; there are: {existing}; {accepted}"
        )
    found: dict[str, list[int]] = {name: [] for name in names}
    for number, cell in enumerate(column_of(rows, column, "recipe.task_column")):
        if not isinstance(cell, str) or cell not in found:
            accepted = f"accepted: {', '.join(names)}{nearest(str(cell), names)}"
            raise RowError(number, f"'{column}' is {cell!r:.60}; {accepted}")
        found[cell].append(number)
    return {name: np.array(own, dtype=np.int64) for name, own in found.items() if own}


def tables_by_task(rows: "Dataset", numbers: "Mapping[str, np.ndarray]") -> "dict[str, Dataset]":
    """The rows of each task, without columns that are empty for the task."""
    return {name: _with_cells(select_rows(rows, own)) for name, own in numbers.items()}


def _with_cells(rows: "Dataset") -> "Dataset":
    """The rows without the columns that are null in all rows: those belong to other tasks."""
    filled: set[str] = set()
    for table in rows.with_format("arrow").iter(batch_size=10_000):
        filled |= {n for n in table.column_names if table.column(n).null_count < len(table)}
    kept = [name for name in rows.column_names if name in filled]
    return copy_locations(rows.select_columns(kept), rows)
