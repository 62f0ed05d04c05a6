"""Places: the file and line that each row of a table comes from, however it was split since."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from trainer.data.formats import place_in_file
from trainer.data.reading import Reading

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

Files = Sequence[tuple[Path, int]]
"""Files in their order, with their numbers of rows."""
_origins: "WeakKeyDictionary[Dataset, tuple[Files, Reading, np.ndarray | None]]"
_origins = WeakKeyDictionary()


def remember(rows: "Dataset", files: Files, reading: Reading) -> "Dataset":
    """The same rows, of which `place_of` knows the files."""
    _origins[rows] = (files, reading, None)
    return rows


def inherit(derived: "Dataset", rows: "Dataset") -> "Dataset":
    """`derived`, whose rows are the same ones as those of `rows`, with their places."""
    if rows in _origins:
        _origins[derived] = _origins[rows]
    return derived


def taken(rows: "Dataset", numbers: "np.ndarray") -> "Dataset":
    """Some of the rows, by their numbers, with their places."""
    chosen = rows.select(numbers)
    files, reading, known = _origins.get(rows, ((), Reading(), None))
    _origins[chosen] = (files, reading, numbers if known is None else known[numbers])
    return chosen


def place_of(rows: "Dataset", row: int, where: str) -> str:
    """Where a row stands: `where: file:line`, or `where row N` (from 0) of a set without files."""
    files, reading, numbers = _origins.get(rows, ((), Reading(), None))
    number = row if numbers is None else int(numbers[row])
    if not files:
        return f"{where} row {number}"
    for path, count in files:
        if number < count:
            return f"{where}: {place_in_file(path, number, reading)}"
        number -= count
    raise AssertionError("more rows than the files have")
