"""Splits: rows held out by the hash of their content, row limits, rows that two sets share."""

from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

from trainer.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from datasets import Dataset


def hold_out(
    rows: "Dataset", fraction: float, seed: int, where: str
) -> tuple["Dataset", "Dataset"]:
    """(train, held out) by the hash of each row: equal rows stay together in any order."""
    held = held_out(contents(rows).to_pylist(), fraction, seed)
    if held.all():
        raise InputError(
            f"{where}: too few different rows to hold some out for validation; give "
            "dataset.validation, or dataset.validation_fraction=0 for none"
        )
    return rows.select((~held).nonzero()[0]), rows.select(held.nonzero()[0])


def held_out(keys: Sequence[str], fraction: float, seed: int) -> "np.ndarray":
    """Whether each row is held out, [N] of bool: a `fraction` of them, at least one.

    A row's place depends on its key alone, so that equal keys share a side and a row that comes
    or goes moves hardly any other.
    """
    import numpy as np

    digests = [blake2b(f"{seed}:{key}".encode(), digest_size=8).digest() for key in keys]
    places = np.frombuffer(b"".join(digests), dtype=np.uint64)
    count = max(1, round(len(keys) * fraction))
    return places <= np.partition(places, count - 1)[count - 1]


def limited(rows: "Dataset", limit: int | None, seed: int) -> "Dataset":
    """At most `limit` rows: the first of a seeded shuffle, in the order that they had."""
    import numpy as np

    if limit is None or limit >= len(rows):
        return rows
    chosen = np.random.default_rng(seed).permutation(len(rows))[:limit]
    return rows.select(np.sort(chosen))


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
