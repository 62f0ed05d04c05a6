"""Formats: one data file to its rows; csv, tsv, json, jsonl, parquet, txt and conll."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.data.cells import Content, joined
from trainer.data.compressed import COMPRESSIONS, ending_of
from trainer.data.delimited import read_delimited, row_lines
from trainer.data.foreign_tables import class_names, read_parquet
from trainer.data.json_files import object_lines, read_json, read_json_lines
from trainer.data.reading import Reading
from trainer.data.text_files import lines_of
from trainer.errors import InputError
from trainer.foreign_files import check_regular

if TYPE_CHECKING:
    import pyarrow as pa

ENDINGS = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".txt", ".conll")
PICKLED = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib", ".npy", ".npz")
EXCEL = (".xlsx", ".xls", ".xlsm", ".ods")
UNREAD = (".arrow", ".feather", ".orc", ".avro", ".zip", ".tar", ".tgz", ".7z", ".lz4", ".rar")
"""Endings of data that no reader is here for."""
DELIMITERS = {".csv": ",", ".tsv": "\t"}
PLAIN = Reading()


def read(path: Path, where: str, *, has_header: bool = True) -> "pa.Table":
    """The rows of one file as a table, as `trainer/data/cells.py` says; JSON cells as JSON."""
    content = read_content(path, where, Reading(has_header=has_header))
    return joined([content], [f"{where}: {path}"])


def read_content(path: Path, where: str, reading: Reading = PLAIN) -> Content:
    """The rows of one file, chosen by its ending, perhaps compressed (.gz .bz2 .xz .zst).

    Text is UTF-8, with or without a byte order mark, or what the reading says. .csv: quoted as RFC
    4180 says. .tsv: no quoting, a quote is a quote. Both have a header line, or without one columns
    named "0", "1", ... .jsonl: one object a line. .json: a list of objects, {"data": such a list},
    or the same as .jsonl. .txt: column text, one row a line, blank lines too. .conll: columns
    tokens and tags, lists; one "token TAB tag" a line and a blank line between sentences.
    .parquet: as stored. Raises InputError with the line number where a line is wrong.
    """
    place = f"{where}: {path}"
    check_regular(path, where)
    check_ending(path, place)
    try:
        if _is_pickle(path):
            raise InputError(f"{place}: pickle files are not read; accepted: {' '.join(ENDINGS)}")
        return READERS[ending_of(path)](path, place, reading)
    except OSError as error:
        raise InputError(f"{place}: cannot be read ({error.strerror or error})") from None


def check_ending(path: Path, place: str) -> None:
    """Raise InputError for a file of another format."""
    ending, accepted = ending_of(path), f"accepted: {' '.join(ENDINGS)}"
    if ending in PICKLED:
        raise InputError(f"{place}: pickle files are not read; {accepted}")
    if ending in EXCEL:
        raise InputError(f"{place}: Excel files are not read; accepted: saved as CSV (UTF-8)")
    if ending not in ENDINGS:
        compressed = f" (and compressed: {' '.join(COMPRESSIONS)})"
        raise InputError(f"{place}: unknown ending '{path.suffix.lower()}'; {accepted}{compressed}")


def place_in_file(path: Path, row: int, reading: Reading) -> str:
    """Where a row of a file stands: path:line, or path row N, counted from 1.

    Reads the file again: nothing is kept for the errors that do not come.
    """
    try:
        version = (path.resolve(), path.stat().st_mtime_ns)
        options = (reading.has_header, reading.encoding, reading.delimiter)
        line = _line_numbers(path, version, options)[row]
    except (OSError, ValueError, LookupError):  # rows have no lines, or it is another file by now
        return f"{path} row {row + 1}"
    return f"{path}:{line}"


@lru_cache(maxsize=1)
def _line_numbers(
    path: Path, version: tuple[Path, int], options: tuple[bool, str | None, str | None]
) -> Sequence[int]:
    """The line of each row of this version of a file; empty where rows have no lines."""
    reading = Reading(*options)
    match ending_of(path):
        case ".csv" | ".tsv" as ending:
            return row_lines(path, reading, DELIMITERS[ending])
        case ".jsonl":
            return object_lines(path, reading)
        case ".txt":
            return range(1, len(lines_of(path, str(path), reading.encoding)) + 1)
    return ()


def _is_pickle(path: Path) -> bool:
    """Whether the file opens as pickle protocols 2 to 5 do; no UTF-8 text begins with 0x80."""
    with path.open("rb") as file:
        start = file.read(2)
    return len(start) == 2 and start[0] == 0x80 and 2 <= start[1] <= 5


def _delimited(path: Path, place: str, reading: Reading) -> Content:
    return read_delimited(path, place, reading, DELIMITERS[ending_of(path)])


def _lines_of_text(path: Path, place: str, reading: Reading) -> Content:
    import pyarrow as pa

    lines = lines_of(path, place, reading.encoding)
    return Content("stored", {"text": pa.chunked_array([lines], pa.string())}, len(lines))


def _parquet(path: Path, place: str, reading: Reading) -> Content:
    table = read_parquet(path, place)
    columns = dict(zip(table.column_names, table.columns, strict=True))
    return Content("stored", columns, len(table), class_names(table))


def _conll(path: Path, place: str, reading: Reading) -> Content:
    import pyarrow as pa

    tokens: list[list[str]] = []
    tags: list[list[str]] = []
    inside = False
    for number, line in enumerate(lines_of(path, place, reading.encoding), 1):
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
    columns = {"tokens": pa.chunked_array([tokens], kind), "tags": pa.chunked_array([tags], kind)}
    return Content("stored", columns, len(tokens))


READERS: dict[str, Callable[[Path, str, Reading], Content]] = {
    ".csv": _delimited,
    ".tsv": _delimited,
    ".json": read_json,
    ".jsonl": read_json_lines,
    ".parquet": _parquet,
    ".txt": _lines_of_text,
    ".conll": _conll,
}
