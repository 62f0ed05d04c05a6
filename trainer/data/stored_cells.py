"""Stored cells: reads rows of a table without the nulls that Arrow adds to structs."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset


def chunk_of(rows: "Dataset", start: int, size: int) -> dict[str, list[Any]]:
    """Return the columns of `size` rows from `start` on, without the nulls that Arrow adds.

    Arrow gives each struct in a column the keys of all rows, and fills missing keys with null.
    These nulls are removed. A JSON column (see `trainer.data.column_types`) keeps its nulls, since
    it stores each cell as the file has it.
    """
    chunk: dict[str, list[Any]] = rows.with_format(None)[start : start + size]
    for name, feature in rows.features.items():
        if holds_structs(feature):
            chunk[name] = [without_nulls(value) for value in chunk[name]]
    return chunk


def holds_structs(feature: object) -> bool:
    """Whether the cells of a column hold structs, at any depth of lists."""
    if isinstance(feature, Mapping):
        return True
    if isinstance(feature, (list, tuple)):
        return any(map(holds_structs, feature))
    return holds_structs(inner) if (inner := getattr(feature, "feature", None)) else False


def without_nulls(found: object) -> object:
    """The cell without the null entries of its structs, at any depth."""
    if isinstance(found, Mapping):
        return {key: without_nulls(value) for key, value in found.items() if value is not None}
    if isinstance(found, list | tuple):
        return [without_nulls(each) for each in found]
    return found
