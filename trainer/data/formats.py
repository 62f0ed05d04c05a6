"""Formats: one data file to a table; csv, tsv, json, jsonl, parquet, txt and conll."""

import csv
import io
import json
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.data.foreign_tables import read_parquet
from trainer.errors import InputError
from trainer.foreign_files import check_regular

if TYPE_CHECKING:
    import pyarrow as pa

ENDINGS = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".txt", ".conll")
PICKLED = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib", ".npy", ".npz")


def read(path: Path, where: str, *, has_header: bool = True) -> "pa.Table":
    """The rows of one file, chosen by its ending. Text is UTF-8, with or without a byte order mark.

    .csv: quoted as RFC 4180 says. .tsv: no quoting, a quote is a quote. Both have a header line, or
    with `has_header` false columns named "0", "1", ...; a column of numbers is one, an empty cell
    of it is null. .jsonl: one object a line. .json: a list of objects, or the same as .jsonl.
    .txt: column text, one row a line, blank lines too. .conll: columns tokens and tags, lists;
    one "token TAB tag" a line and a blank line between sentences. .parquet: as stored.
    Raises InputError with the line number where a line is wrong.
    """
    place = f"{where}: {path}"
    ending = path.suffix.lower()
    accepted = f"accepted: {' '.join(ENDINGS)}"
    check_regular(path, where)
    if ending in PICKLED or (path.is_file() and _is_pickle(path)):
        raise InputError(f"{place}: pickle files are not read; {accepted}")
    if ending not in ENDINGS:
        raise InputError(f"{place}: unknown ending '{ending}'; {accepted}")
    try:
        return _readers(has_header)[ending](path, place)
    except OSError as error:
        raise InputError(f"{place}: cannot be read ({error.strerror or error})") from None


def _readers(has_header: bool) -> dict[str, Callable[[Path, str], "pa.Table"]]:
    delimited = partial(_delimited, has_header=has_header)
    return {
        ".csv": partial(delimited, delimiter=",", quoted=True),
        ".tsv": partial(delimited, delimiter="\t", quoted=False),
        ".json": _json,
        ".jsonl": _json_lines,
        ".parquet": read_parquet,
        ".txt": _lines_of_text,
        ".conll": _conll,
    }


def _is_pickle(path: Path) -> bool:
    """Whether the file opens as pickle protocols 2 to 5 do; no UTF-8 text begins with 0x80."""
    with path.open("rb") as file:
        start = file.read(2)
    return len(start) == 2 and start[0] == 0x80 and 2 <= start[1] <= 5


def _text(path: Path, place: str) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = f"byte 0x{data[error.start]:02x} is not UTF-8"
        raise InputError(f"{place}:{line}: {found}; text files must be UTF-8") from None


def _lines(path: Path, place: str) -> list[str]:
    """The lines without their ends; only newlines end a line."""
    lines = _text(path, place).split("\n")
    return [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]


def _lines_of_text(path: Path, place: str) -> "pa.Table":
    import pyarrow as pa

    return pa.table({"text": pa.array(_lines(path, place), pa.string())})


def _delimited(
    path: Path, place: str, *, has_header: bool, delimiter: str, quoted: bool
) -> "pa.Table":
    import pyarrow as pa

    rows = list(_cells(_text(path, place), place, delimiter, quoted))
    if not rows:
        return pa.table({})
    names = rows.pop(0) if has_header else [str(i) for i in range(len(rows[0]))]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{place}:1: column '{twice}' occurs twice; names must differ")
    columns = zip(*rows, strict=True) if rows else [()] * len(names)
    return pa.table([_typed(column) for column in columns], names)


def _cells(text: str, place: str, delimiter: str, quoted: bool) -> Iterator[list[str]]:
    """The lines as cells, blank ones left out; all must be as wide as the first."""
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        strict=True,
    )
    width = 0
    try:
        for row in reader:
            width = width or len(row)
            if row and len(row) != width:
                found = f"{len(row)} columns, but {width} in the first line"
                raise InputError(f"{place}:{reader.line_num}: {found}; all lines need the same")
            if row:
                yield row
    except csv.Error as error:
        raise InputError(f"{place}:{reader.line_num}: bad quoting ({error})") from None


def _typed(cells: Sequence[str]) -> "pa.ChunkedArray":
    """Numbers if all cells are numbers that keep their digits ("007" does not), else strings."""
    import pyarrow as pa
    import pyarrow.compute as pc

    strings = pa.chunked_array([pa.array(cells, pa.string())])
    filled = pc.if_else(pc.equal(strings, ""), None, strings)
    if filled.null_count == len(filled):
        return strings
    try:
        integers = filled.cast(pa.int64())
        return integers if integers.cast(pa.string()).equals(filled) else strings
    except pa.ArrowInvalid:
        pass
    try:
        floats = filled.cast(pa.float64())
        return floats if pc.all(pc.is_finite(floats)).as_py() else strings
    except pa.ArrowInvalid:
        return strings


def _json(path: Path, place: str) -> "pa.Table":
    text = _text(path, place)
    if not text.lstrip().startswith("["):
        return _json_lines(path, place)
    rows = _parsed(text, place, 1)
    return _objects(rows, [f"{place}: row {number}" for number in range(1, len(rows) + 1)])


def _json_lines(path: Path, place: str) -> "pa.Table":
    numbered = [(n, line) for n, line in enumerate(_lines(path, place), 1) if line.strip()]
    rows = [_parsed(line, place, number) for number, line in numbered]
    return _objects(rows, [f"{place}:{number}" for number, _ in numbered])


def _parsed(text: str, place: str, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        found = f"bad JSON, {error.msg} at column {error.colno}"
        raise InputError(f"{place}:{line + error.lineno - 1}: {found}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}:{line}: bad JSON, {error}") from None


def _objects(rows: list[Any], places: list[str]) -> "pa.Table":
    """A table of JSON objects; a key that some of them lack is null there."""
    import pyarrow as pa

    for row, place in zip(rows, places, strict=True):
        if not isinstance(row, dict):
            raise InputError(f"{place}: {type(row).__name__} found; each row must be an object")
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table(
        {name: _column([row.get(name) for row in rows], name, places) for name in names}
    )


def _column(values: list[Any], name: str, places: list[str]) -> "pa.Array":
    import pyarrow as pa

    def fit(count: int) -> bool:
        try:
            pa.array(values[:count])
        except (pa.ArrowException, OverflowError, UnicodeError, TypeError):
            return False
        return True

    if not fit(len(values)):
        row = bisect_left(range(1, len(values)), True, key=lambda count: not fit(count))
        found = f"'{name}' is {values[row]!r:.60} ({type(values[row]).__name__})"
        raise InputError(f"{places[row]}: {found}, which does not fit a column of the rows above")
    return pa.array(values)


def _conll(path: Path, place: str) -> "pa.Table":
    import pyarrow as pa

    tokens: list[list[str]] = []
    tags: list[list[str]] = []
    inside = False
    for number, line in enumerate(_lines(path, place), 1):
        if not line.strip():
            inside = False
            continue
        cells = line.split("\t")
        if len(cells) != 2 or not all(cell.strip() for cell in cells):
            raise InputError(f"{place}:{number}: {line!r:.60} found; a line is token TAB tag")
        if not inside:
            tokens.append([])
            tags.append([])
            inside = True
        tokens[-1].append(cells[0])
        tags[-1].append(cells[1])
    kind = pa.list_(pa.string())
    return pa.table({"tokens": pa.array(tokens, kind), "tags": pa.array(tags, kind)})
