"""RawRows: undecoded rows of shards and their locations, which are sent to worker processes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trainer.data.arrow_files import class_names
from trainer.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

KEY = "__key__"
"""In tar shards, the column with the part of the file name that all files of a row share."""


@dataclass(frozen=True)
class RawRows:
    """N rows of one or several shards with the same format."""

    table: "pa.Table"
    """The columns of a parquet file, a column `line` for JSON Lines, or a column for each file
    ending in a tar."""
    shards: np.ndarray
    """[N], the index of each row's shard"""
    places: np.ndarray
    """[N], the row in a parquet or tar file, counted from 0, or the line in a text file, from 1"""

    def __len__(self) -> int:
        return len(self.shards)

    def take(self, rows: np.ndarray) -> "RawRows":
        """A copy of these rows."""
        return RawRows(self.table.take(rows), self.shards[rows], self.places[rows])


def joined(parts: Sequence[RawRows], names: Sequence[str]) -> RawRows:
    """The rows of all parts. `names` are the names of all shards.

    Rows of tar shards may have different files; missing ones become null. Raises InputError if
    parquet shards differ in their columns or class names.
    """
    import pyarrow as pa

    for part in parts[1:]:
        _check_alike(parts[0], part, names)
    try:
        table = pa.concat_tables([part.table for part in parts], promote_options="permissive")
    except (pa.ArrowException, TypeError) as error:
        found = str(error).splitlines()[0]
        shown = ", ".join(names[int(part.shards[0])] for part in parts[:2])
        raise InputError(f"dataset.train: {shown} and others differ in columns ({found})") from None
    shards, places = ([getattr(part, name) for part in parts] for name in ("shards", "places"))
    return RawRows(table.combine_chunks(), np.concatenate(shards), np.concatenate(places))


def _check_alike(first: RawRows, other: RawRows, names: Sequence[str]) -> None:
    columns, others = (set(part.table.column_names) for part in (first, other))
    both = f"dataset.train: {names[int(other.shards[0])]} and {names[int(first.shards[0])]} differ"
    if columns != others and KEY not in columns:
        found = ", ".join(sorted(columns ^ others))
        raise InputError(f"{both} in columns: {found}; accepted: shards with the same columns")
    if class_names(first.table) != class_names(other.table):
        raise InputError(f"{both} in the names of classes; accepted: shards with the same names")
