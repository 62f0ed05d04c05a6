"""Output rows: writes rows to a file, whose extension sets the format, or to standard output."""

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.checkpoint import files
from trainer.data.output_format import descriptor_of, output_format, writes_through
from trainer.errors import InputError
from trainer.plurals import plural
from trainer.stores.outputs import written
from trainer.terminal import activity
from trainer.terminal.console import columns_of, make_console, show
from trainer.terminal.plain_text import plain_json

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.text import Text

Row = Mapping[str, Any]
Readable = Callable[[Row, int | None], "Text"]
"""(row, width of the terminal in characters) -> the row as readable lines."""

ROWS_AT_A_TIME = 4096
"""Rows per row group of a parquet file."""
VECTOR = "embedding"
"""The field that an .npy file holds."""
IN_COLUMNS = "probabilities"
"""The field that becomes one column per class in csv and tsv files."""


def write_rows(path: str, rows: Iterator[Row]) -> None:
    """Write one or more rows to a path or URL. A regular file is replaced atomically.

    A symbolic link is kept and its target is written. Pipes and devices receive each row as soon as
    it is available.
    """
    first = next(rows)  # raises the errors of the input before anything is written
    with written(path, "output.file") as local_path:
        _write_rows(local_path, first, rows)


def _write_rows(path: str, first: Row, rows: Iterator[Row]) -> None:
    given, name, all_rows = Path(path), output_format(path), chain([first], rows)
    if writes_through(given):
        pieces = {**WRITERS, **STREAMED}[name](all_rows)
        files.write_through(given, pieces, descriptor_of(given))
        return
    pieces = WRITERS[name](all_rows)
    target = Path(os.path.realpath(given))
    files.make_folder(target.parent, synced=True)
    files.write_pieces(target, pieces)
    files.fsync_folder(target.parent)


def print_rows(rows: Iterable[Row], readable: Readable | None = None) -> None:
    """Print each row as soon as it is available: as JSON, or with `readable` on a terminal."""
    console = make_console()
    for row in rows:
        activity.done()
        if console.is_terminal and readable is not None:
            show(console, readable(row, columns_of(console)))
        else:
            print(plain_json(_json(row)), flush=True)


def print_written(number: int, file: str) -> None:
    """Print how many rows were written to a file.

    Nothing is printed if rows went to a pipe or device, which may be standard output itself
    (`output.file=/dev/stdout`).
    """
    activity.done()
    if not writes_through(Path(file)):
        show(make_console(), f"{plural(number, 'row')} written to {file}")


def _json(row: Row) -> str:
    return json.dumps(files.finite_or_null(row), ensure_ascii=False, default=str)


def _json_lines(rows: Iterable[Row]) -> Iterator[bytes]:
    for row in rows:
        yield f"{_json(row)}\n".encode()


def _json_list(rows: Iterable[Row]) -> Iterator[bytes]:
    for number, row in enumerate(rows):
        yield f"{',' if number else '['}\n{_json(row)}".encode()
    yield b"\n]\n"


def _separated(rows: Iterable[Row], delimiter: str) -> Iterator[bytes]:
    """A header and one line per row, quoted where needed. The first row determines the columns.

    Raises InputError for a row with another column, since the header has already been written.
    """
    header: list[str] = []
    for row in rows:
        cells = _cells(row)
        if not header:
            header = list(cells)
            yield _line(header, delimiter)
        if more := [name for name in cells if name not in header]:
            found = f"found a row with a column '{more[0]}', which the first row lacks"
            raise InputError(f"output.file: {found}; accepted: a regular file, or .jsonl")
        yield _line([cells.get(name, "") for name in header], delimiter)


def _whole_table(rows: Iterable[Row], delimiter: str) -> Iterator[bytes]:
    """Like `_separated`, but with the columns of all rows, which are read into memory first."""
    header: dict[str, None] = {}
    table: list[list[str]] = []
    for row in rows:
        cells = _cells(row)
        header |= dict.fromkeys(cells)
        table.append([cells.get(name, "") for name in header])
    yield _line(list(header), delimiter)
    for line in table:
        yield _line([*line, *[""] * (len(header) - len(line))], delimiter)


def _line(cells: list[str], delimiter: str) -> bytes:
    """A line of a table, in which cells with any kind of line break are quoted."""
    text = io.StringIO()
    # before 3.13, Python quotes a cell with a carriage return only if the line ends in one, too
    csv.writer(text, delimiter=delimiter, lineterminator="\r\n").writerow(cells)
    line = text.getvalue().removesuffix("\r\n")
    return f"{line}\n".encode()


def _cells(row: Row) -> dict[str, str]:
    """A row as texts: one column per probability, other lists and mappings as JSON."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if name == IN_COLUMNS and isinstance(value, Mapping):
            flat |= {f"{name}.{label}": share for label, share in value.items()}
        else:
            flat[name] = value
    return {name: _cell(files.finite_or_null(value)) for name, value in flat.items()}


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def _parquet(rows: Iterable[Row]) -> Iterator[bytes]:
    """The bytes of a parquet file. All rows are read into memory first, as they determine the
    schema.

    A column whose values have no common Arrow type is written as JSON texts.
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


def _npy(rows: Iterable[Row]) -> Iterator[bytes]:
    """The bytes of a .npy file with the vectors of all rows, [N, D] in fp32, and nothing else.

    All vectors are read into memory first, because the file begins with their number.
    """
    import numpy as np

    vectors = []
    for row in rows:
        if VECTOR not in row:
            found = f"the answers hold no '{VECTOR}'"
            raise InputError(
                f"output.file: .npy: {found}; accepted: another format, such as .jsonl"
            )
        vectors.append(np.asarray(row[VECTOR], dtype=np.float32))
    sink = io.BytesIO()
    np.save(sink, np.stack(vectors), allow_pickle=False)
    yield sink.getvalue()


def _table(group: list[Row]) -> Any:
    """Rows as an Arrow table. Numbers that are not finite become null, as in JSON."""
    import pyarrow as pa

    plain = [json.loads(_json(row)) for row in group]
    columns = {}
    for name in dict.fromkeys(name for row in plain for name in row):
        columns[name] = _column([row.get(name) for row in plain])
    return pa.table(columns)


def _column(values: list[Any]) -> "pa.Array":
    """An Arrow array of the values, or of their JSON texts if parquet has no type for them."""
    import pyarrow as pa

    try:
        found = pa.array(values)
        if "struct<>" not in str(found.type):  # empty mappings, which parquet cannot store
            return found
    except (pa.ArrowException, OverflowError):  # values of several types, or integers too large
        pass
    return pa.array([None if value is None else json.dumps(value) for value in values])


class _Pieces(io.RawIOBase):
    """A writable file that keeps the bytes written to it until `taken` is called."""

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
        """The pieces that were written since the last call."""
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
    "csv": partial(_whole_table, delimiter=","),
    "tsv": partial(_whole_table, delimiter="\t"),
    "parquet": _parquet,
    "npy": _npy,
}
"""Format -> a function from rows to the bytes of the file, in pieces."""
STREAMED: dict[str, Callable[[Iterable[Row]], Iterator[bytes]]] = {
    "csv": partial(_separated, delimiter=","),
    "tsv": partial(_separated, delimiter="\t"),
}
"""Format -> its function for pipes and devices, which writes each row as soon as it is available.
"""
