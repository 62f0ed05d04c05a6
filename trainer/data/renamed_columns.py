"""Renamed columns: renames the columns of a table."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from trainer.data.row_locations import copy_locations
from trainer.errors import InputError, nearest

if TYPE_CHECKING:
    from datasets import Dataset


def renamed(rows: "Dataset", columns: Mapping[str, str], where: str) -> "Dataset":
    """Return the rows with columns renamed as {old: new}.

    Raises InputError if a column does not exist, and for new names that are empty or occur twice.
    """
    for found in columns:
        if found not in rows.column_names:
            digits = found.isdigit() and "; for a file without a header, has_header=false"
            raise InputError(f"{where}: {missing(found, rows.column_names)}{digits or ''}")
    if "" in columns.values():
        old = next(old for old, new in columns.items() if new == "")
        raise InputError(f"{where}: '{old}' would have an empty name; accepted: a name")
    names = [columns.get(name, name) for name in rows.column_names]
    for name in names:
        if names.count(name) > 1:
            both = [old for old, new in zip(rows.column_names, names, strict=True) if new == name]
            raise InputError(f"{where}: {' and '.join(both)} would both be '{name}'; rename one")
    return copy_locations(rows.rename_columns(dict(columns)), rows) if columns else rows


def missing(name: str, names: Sequence[str]) -> str:
    """The end of an error message, such as "no column 'txt'; there are: text, label"."""
    existing = ", ".join(f"{each:.40}" for each in names)
    return f"no column '{name}'; there are: {existing}{nearest(name, names)}"
