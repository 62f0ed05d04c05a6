"""Row locations: finds the file and line of a row, even after its table was split or changed."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from trainer.data.formats import place_in_file
from trainer.data.read_options import ReadOptions

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

Files = Sequence[tuple[Path, int]]
"""(path, number of rows) of each file, in order."""
_origins: "WeakKeyDictionary[Dataset, tuple[Files, ReadOptions, np.ndarray | None]]"
_origins = WeakKeyDictionary()
_places: "WeakKeyDictionary[Dataset, Sequence[str]]" = WeakKeyDictionary()
"""Table -> location of each row as text, for tables whose rows are not consecutive in files."""


def record_locations(rows: "Dataset", files: Files, reading: ReadOptions) -> "Dataset":
    """Record the files that the rows came from, for `location_of`. Returns the rows."""
    _origins[rows] = (files, reading, None)
    return rows


def record_places(rows: "Dataset", places: Sequence[str]) -> "Dataset":
    """Record the location of each row as text, for `location_of`. Returns the rows."""
    _places[rows] = places
    return rows


def copy_locations(derived: "Dataset", rows: "Dataset") -> "Dataset":
    """Copy the locations of `rows` to `derived`, which has the same rows. Returns `derived`."""
    if rows in _origins:
        _origins[derived] = _origins[rows]
    if rows in _places:
        _places[derived] = _places[rows]
    return derived


def select_rows(rows: "Dataset", numbers: "np.ndarray") -> "Dataset":
    """The rows with these indices, with their locations."""
    chosen = rows.select(numbers)
    if rows in _places:
        places = _places[rows]
        return record_places(chosen, [places[number] for number in numbers.tolist()])
    files, reading, known = _origins.get(rows, ((), ReadOptions(), None))
    _origins[chosen] = (files, reading, numbers if known is None else known[numbers])
    return chosen


def location_of(rows: "Dataset", row: int, where: str) -> str:
    """The location of a row for messages: "where: file:line", or "where row N" counted from 0."""
    if rows in _places:
        return f"{where}: {_places[rows][row]}"
    files, reading, numbers = _origins.get(rows, ((), ReadOptions(), None))
    number = row if numbers is None else int(numbers[row])
    if not files:
        return f"{where} row {number}"
    for path, count in files:
        if number < count:
            return f"{where}: {place_in_file(path, number, reading)}"
        number -= count
    raise AssertionError("more rows than the files have")
