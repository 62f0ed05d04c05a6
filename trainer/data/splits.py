"""Splits: holds out rows by a hash of their content, limits rows, and finds shared rows.

N is the number of rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from trainer.data.row_locations import select_rows
from trainer.errors import InputError
from trainer.plurals import of_all

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from datasets import Dataset


@dataclass(frozen=True)
class HeldOut:
    """The remaining training rows, the held-out rows, and a note on how they were chosen."""

    train: "Dataset"
    held_out: "Dataset"
    note: str


def hold_out(
    rows: "Dataset", fraction: float, seed: int, where: str, stratify_by: str = ""
) -> HeldOut:
    """Hold out rows by a hash of their content, so that equal rows stay together.

    If the column `stratify_by` holds classes, the same share of each class is held out. Raises
    InputError if there are too few different rows.
    """
    classes = _classes(rows, stratify_by)
    held = held_out(contents(rows).to_pylist(), fraction, seed, classes)
    if held.all() or not held.any():
        raise InputError(
            f"{where}: too few different rows to hold some out for validation; give "
            "dataset.validation, or dataset.validation_fraction=0 for none"
        )
    how = f"stratified by '{stratify_by}'" if classes else "by their content"
    count, total = int(held.sum()), len(rows)
    note = (
        f"{where}: {of_all(count, total, 'row')} held out, {how}; no other row equals one of them"
    )
    train, validation = (select_rows(rows, side.nonzero()[0]) for side in (~held, held))
    return HeldOut(train, validation, note)


def held_out(
    keys: Sequence[str], fraction: float, seed: int, classes: Sequence[Any] | None = None
) -> "np.ndarray":
    """Which rows to hold out, [N] bool: a `fraction` of them, at least one.

    The hash of a row's key decides, so rows with equal keys stay together, and adding or removing
    rows rarely changes the split of others. Rows with which more than twice the share would be held
    out stay in training, unless there are few others. With `classes`, the same share of each class
    is held out.
    """
    import numpy as np

    digests = [blake2b(f"{seed}:{key}".encode(), digest_size=8).digest() for key in keys]
    hashes = np.frombuffer(b"".join(digests), dtype=np.uint64)
    if classes is None:
        return _smallest(hashes, max(1, round(len(keys) * fraction)))
    _, numbers = np.unique(np.array(classes, dtype=str), return_inverse=True)
    sizes = np.bincount(numbers)
    held = np.zeros(len(keys), dtype=bool)
    for number, count in enumerate(_shares(sizes, fraction)):
        own = hashes[numbers == number]
        chosen = _smallest(own, count) if count else np.zeros(len(own), dtype=bool)
        if not chosen.all():  # a class whose rows are all equal stays in training
            held[numbers == number] = chosen
    return held


def _smallest(hashes: "np.ndarray", count: int) -> "np.ndarray":
    """The rows with the smallest hashes, [N] bool: about `count`; equal hashes stay together.

    A hash is passed over if more than twice as many rows would be held out with it: copies of one
    row, which may be most of a data set, would leave few rows to train on. If too few rows are left
    to hold out, the rarest of the passed hashes is added where this comes nearer to `count`.
    """
    import numpy as np

    _, group_of_row, sizes = np.unique(hashes, return_inverse=True, return_counts=True)
    chosen, passed, held = [], [], 0
    for number, size in enumerate(sizes.tolist()):
        if held >= count:
            break
        if held + size > 2 * count:
            passed.append(number)
        else:
            chosen.append(number)
            held += size
    if not held:  # there is no other way
        chosen = passed[:1]
    elif held < count:
        rarest = min(passed, key=lambda number: sizes[number])
        total = held + int(sizes[rarest])
        if total * held < count**2 and 2 * total <= len(hashes):
            chosen.append(rarest)
    is_chosen = np.zeros(len(sizes), dtype=bool)
    is_chosen[chosen] = True
    found: np.ndarray = is_chosen[group_of_row]
    return found


def _shares(sizes: "np.ndarray", fraction: float) -> "np.ndarray":
    """The number of rows of each class to hold out, rounded so that the total is right.

    Each class keeps at least one row for training.
    """
    import numpy as np

    exact = sizes * fraction
    counts = np.floor(exact).astype(int)
    missing = max(1, round(sizes.sum() * fraction)) - counts.sum()
    most_owed = np.argsort(-(exact - counts), kind="stable")
    counts[most_owed[: max(0, missing)]] += 1
    limited_counts: np.ndarray = np.minimum(counts, np.maximum(sizes - 1, 0))
    return limited_counts


def _classes(rows: "Dataset", column: str) -> list[Any] | None:
    """The values of a column if it holds classes (few distinct texts, integers or booleans)."""
    if column not in rows.column_names:
        return None
    values = rows.select_columns(column).with_format(None)[:][column]
    if {type(value) for value in values} - {str, int, bool, type(None)}:
        return None
    return values if 2 <= len(set(values)) <= len(values) // 2 else None


def limited(rows: "Dataset", limit: int | None, seed: int) -> "Dataset":
    """A random sample of at most `limit` rows, in their original order."""
    import numpy as np

    if limit is None or limit >= len(rows):
        return rows
    chosen = np.random.default_rng(seed).permutation(len(rows))[:limit]
    return select_rows(rows, np.sort(chosen))


def num_shared(rows: "Dataset", others: "Dataset") -> int:
    """The number of `rows` that also occur in `others`, comparing only the columns of both."""
    import pyarrow.compute as pc

    columns = [name for name in rows.column_names if name in others.column_names]
    if not columns:
        return 0
    theirs = contents(others.select_columns(columns))
    ours = contents(rows.select_columns(columns))
    shared: int = pc.sum(pc.is_in(ours, value_set=theirs)).as_py()
    return shared


def contents(rows: "Dataset") -> "pa.ChunkedArray":
    """Each row as one string, [N]."""
    import pyarrow as pa
    import pyarrow.compute as pc

    table = rows.with_format("arrow")[:]
    columns = [_as_strings(table.column(name)) for name in sorted(table.column_names)]
    separator = pa.scalar("\x1f", pa.large_string())
    return pc.binary_join_element_wise(*columns, separator, null_handling="replace")


def _as_strings(column: "pa.ChunkedArray") -> "pa.ChunkedArray":
    import pyarrow as pa

    try:
        return column.cast(pa.large_string())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):  # lists and structs
        return pa.chunked_array([[repr(value) for value in column.to_pylist()]], pa.large_string())
