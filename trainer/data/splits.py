"""Splits: rows held out by the hash of their content, row limits, rows that two sets share."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from trainer.data.places import taken
from trainer.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from datasets import Dataset


@dataclass(frozen=True)
class HeldOut:
    """Training rows, the rows that were held out of them, and how, in words."""

    train: "Dataset"
    held_out: "Dataset"
    note: str


def hold_out(
    rows: "Dataset", fraction: float, seed: int, where: str, stratify_by: str = ""
) -> HeldOut:
    """Hold rows out by the hash of each: equal rows stay together in any order.

    Where the column `stratify_by` has classes, each gives its share.
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
    note = f"{where}: {count} of {total} rows are held out, {how}; none is among the others too"
    train, validation = (taken(rows, side.nonzero()[0]) for side in (~held, held))
    return HeldOut(train, validation, note)


def held_out(
    keys: Sequence[str], fraction: float, seed: int, classes: Sequence[Any] | None = None
) -> "np.ndarray":
    """Whether each row is held out, [N] of bool: a `fraction` of them, at least one.

    A row's place depends on its key alone, so that equal keys share a side and a row that comes
    or goes moves hardly any other. Rows of each of `classes` are held out in equal shares.
    """
    import numpy as np

    digests = [blake2b(f"{seed}:{key}".encode(), digest_size=8).digest() for key in keys]
    places = np.frombuffer(b"".join(digests), dtype=np.uint64)
    if classes is None:
        count = max(1, round(len(keys) * fraction))
        return places <= np.partition(places, count - 1)[count - 1]
    _, numbers = np.unique(np.array(classes, dtype=str), return_inverse=True)
    sizes = np.bincount(numbers)
    held = np.zeros(len(keys), dtype=bool)
    for number, count in enumerate(_shares(sizes, fraction)):
        own = places[numbers == number]
        chosen = own <= np.partition(own, count - 1)[count - 1] if count else own < 0
        if not chosen.all():  # a class of equal rows stays in training
            held[numbers == number] = chosen
    return held


def _shares(sizes: "np.ndarray", fraction: float) -> "np.ndarray":
    """How many of each class to hold out: their shares, rounded so that the total is right.

    A class keeps one row at least for training.
    """
    import numpy as np

    exact = sizes * fraction
    counts = np.floor(exact).astype(int)
    missing = max(1, round(sizes.sum() * fraction)) - counts.sum()
    most_owed = np.argsort(-(exact - counts), kind="stable")
    counts[most_owed[: max(0, missing)]] += 1
    return np.minimum(counts, np.maximum(sizes - 1, 0))


def _classes(rows: "Dataset", column: str) -> list[Any] | None:
    """The values of a column of classes: texts, whole numbers or booleans, most of them shared."""
    if column not in rows.column_names:
        return None
    values = rows.select_columns(column).with_format(None)[:][column]
    if {type(value) for value in values} - {str, int, bool, type(None)}:
        return None
    return values if 2 <= len(set(values)) <= len(values) // 2 else None


def limited(rows: "Dataset", limit: int | None, seed: int) -> "Dataset":
    """At most `limit` rows: the first of a seeded shuffle, in the order that they had."""
    import numpy as np

    if limit is None or limit >= len(rows):
        return rows
    chosen = np.random.default_rng(seed).permutation(len(rows))[:limit]
    return taken(rows, np.sort(chosen))


def num_shared(rows: "Dataset", others: "Dataset") -> int:
    """How many of `rows` are also in `others`, all common columns equal."""
    import pyarrow.compute as pc

    columns = [name for name in rows.column_names if name in others.column_names]
    if not columns:
        return 0
    theirs = contents(others.select_columns(columns))
    return pc.sum(pc.is_in(contents(rows.select_columns(columns)), value_set=theirs)).as_py()


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
