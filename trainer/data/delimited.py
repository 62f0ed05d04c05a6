"""Delimited files: csv and tsv files as columns of text."""

import csv
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from trainer.data.column_types import Content
from trainer.data.read_options import ReadOptions
from trainer.data.text_files import text_of
from trainer.errors import InputError
from trainer.plurals import plural

Line = tuple[int, list[str]]
"""The line number on which a row ends, and the cells of the row."""


def read_delimited(path: Path, place: str, reading: ReadOptions, delimiter: str) -> Content:
    """The columns of a file, every cell as text. Raises InputError with the line at fault."""
    import pyarrow as pa

    lines = _lines(path, place, reading, delimiter)
    first = next(lines, None)
    if first is None:
        return Content("text", {}, 0)
    names = first[1] if reading.has_header else [str(i) for i in range(len(first[1]))]
    if reading.has_header:
        _check_delimiter(names, f"{place}:{first[0]}", reading, delimiter)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{place}:{first[0]}: column '{twice}' occurs twice; names must differ")
    rows = [] if reading.has_header else [first[1]]
    bad_before = len(reading.bad.dropped)
    for number, row in lines:
        if len(row) == len(names):
            rows.append(row)
        else:
            found = f"{plural(len(row), 'column')}, but {len(names)} in the first line"
            reading.bad.refuse(f"{place}:{number}", f"{found}; all lines need the same", row)
    dropped = reading.bad.dropped[bad_before:]
    reading.bad.check(place, dropped, len(rows) + len(dropped))
    columns = zip(*rows, strict=True) if rows else [()] * len(names)
    arrays = {
        name: pa.array(cells, pa.string()) for name, cells in zip(names, columns, strict=True)
    }
    return Content("text", arrays, len(rows))


def _check_delimiter(names: list[str], place: str, reading: ReadOptions, delimiter: str) -> None:
    """Refuse a single column whose name contains another usual delimiter."""
    if len(names) == 1 and reading.delimiter is None and any(each in names[0] for each in ";\t|"):
        shown = names[0].replace("\t", "\\t")
        usual = "tabs" if delimiter == "\t" else f"'{delimiter}'"
        accepted = f"accepted: columns separated by {usual}, or another dataset.delimiter"
        raise InputError(f"{place}: found one column, '{shown:.80}'; {accepted}")


def row_lines(path: Path, reading: ReadOptions, delimiter: str) -> list[int]:
    """The line number on which each row ends."""
    lines = list(_lines(path, str(path), reading, delimiter))
    width = len(lines[0][1])
    return [number for number, row in lines[reading.has_header :] if len(row) == width]


def _lines(path: Path, place: str, reading: ReadOptions, delimiter: str) -> Iterator[Line]:
    """Yield the rows, without blank lines. A first line `sep=;` (Excel) sets the delimiter."""
    text, before = text_of(path, place, reading.encoding), 0
    if named := re.match(r"sep=(.)\r?\n", text):
        text, before, delimiter = text[named.end() :], 1, named[1]
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=reading.delimiter or delimiter,
        quoting=csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL,
        strict=True,
    )
    try:
        for row in reader:
            if row:
                yield reader.line_num + before, row
    except csv.Error as error:
        line = reader.line_num + before
        raise InputError(f"{place}:{line}: bad quoting ({error})") from None
