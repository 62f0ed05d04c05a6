"""Output rows: answers to a file of the format that its name tells, or to standard output."""

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any

from trainer.checkpoint import files
from trainer.errors import InputError
from trainer.output_format import descriptor_of, output_format, writes_through
from trainer.plain_text import plain_json

Row = Mapping[str, Any]

ROWS_AT_A_TIME = 4096
"""Rows of one row group of a parquet file."""
IN_COLUMNS = "probabilities"
"""The field of an answer that a table holds as one column a class."""


def write_rows(path: str, rows: Iterator[Row]) -> None:
    """Write one row or more: whole or not at all, and through what is no regular file.

    A link stays, and what it points to is written; a pipe or a device gets each row as it comes.
    """
    first = next(rows)  # what is wrong with the input is found before anything is written
    pieces = WRITERS[output_format(path)](chain([first], rows))
    given = Path(path)
    if writes_through(given):
        files.write_through(given, pieces, descriptor_of(given))
        return
    target = Path(os.path.realpath(given))
    files.make_folder(target.parent, synced=True)
    files.write_pieces(target, pieces)
    files.fsync_folder(target.parent)


def print_rows(rows: Iterable[Row]) -> None:
    """Each row as a JSON line on standard output, as it comes."""
    for row in rows:
        print(plain_json(_json(row)), flush=True)


def _json(row: Row) -> str:
    return json.dumps(files.finite_or_null(row), ensure_ascii=False, default=str)


def _json_lines(rows: Iterable[Row]) -> Iterator[bytes]:
    for row in rows:
        yield f"{_json(row)}\n".encode()


def _json_list(rows: Iterable[Row]) -> Iterator[bytes]:
    for number, row in enumerate(rows):
        yield f"{',' if number else '['}\n{_json(row)}".encode()
    yield b"\n]\n"


def _csv(rows: Iterable[Row]) -> Iterator[bytes]:
    return _separated(rows, ",")


def _tsv(rows: Iterable[Row]) -> Iterator[bytes]:
    return _separated(rows, "\t")


def _separated(rows: Iterable[Row], delimiter: str) -> Iterator[bytes]:
    """A header and a line a row, quoted where needed; all rows have the columns of the first."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    header: list[str] = []
    for row in rows:
        cells = _cells(row)
        if not header:
            header = list(cells)
            writer.writerow(header)
        writer.writerow([cells.get(name, "") for name in header])
        yield text.getvalue().encode()
        text.seek(0)
        text.truncate()


def _cells(row: Row) -> dict[str, str]:
    """A row as texts: probabilities a column each, other lists and mappings as JSON."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if name == IN_COLUMNS and isinstance(value, Mapping):
            flat |= {f"{name}.{label}": share for label, share in value.items()}
        else:
            flat[name] = value
    return {name: _cell(files.finite_or_null(value)) for name, value in flat.items()}


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def _parquet(rows: Iterable[Row]) -> Iterator[bytes]:
    """Row groups under one schema that all rows decide, for which they are kept in memory.

    Values of one column that Arrow has no common type for become JSON texts.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = [_table(group) for group in _groups(rows)]
    try:
        whole = pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        accepted = "accepted: .jsonl, which takes rows of different types"
        raise InputError(f"output.file: {_one_line(error)}; {accepted}") from error
    sink = _Pieces()
    with pq.ParquetWriter(sink, whole.schema) as writer:
        for start in range(0, len(whole), ROWS_AT_A_TIME):
            writer.write_table(whole.slice(start, ROWS_AT_A_TIME))
            yield from sink.taken()
    yield from sink.taken()


def _table(group: list[Row]) -> Any:
    """Rows as an Arrow table; numbers that are not finite are missing, as in JSON."""
    import pyarrow as pa

    plain = [json.loads(_json(row)) for row in group]
    columns = {}
    for name in dict.fromkeys(name for row in plain for name in row):
        values = [row.get(name) for row in plain]
        try:
            columns[name] = pa.array(values)
        except pa.ArrowException:
            columns[name] = pa.array([None if v is None else json.dumps(v) for v in values])
    return pa.table(columns)


class _Pieces(io.RawIOBase):
    """A file to write to, whose bytes are taken away as they come."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size

    def write(self, data: Any) -> int:
        self._pieces.append(bytes(data))
        self._size += len(self._pieces[-1])
        return len(self._pieces[-1])

    def taken(self) -> list[bytes]:
        """The pieces since the last call."""
        pieces, self._pieces = self._pieces, []
        return pieces


def _groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    iterator = iter(rows)
    while group := list(islice(iterator, ROWS_AT_A_TIME)):
        yield group


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


WRITERS: dict[str, Callable[[Iterable[Row]], Iterator[bytes]]] = {
    "jsonl": _json_lines,
    "json": _json_list,
    "csv": _csv,
    "tsv": _tsv,
    "parquet": _parquet,
}
"""Format -> rows to the bytes of the file, piece by piece."""
