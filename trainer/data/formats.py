"""File formats: readers for csv, tsv, json, jsonl, parquet, txt, conll and spacy files."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.data.arrow_files import class_names, read_parquet
from trainer.data.column_types import Content, joined
from trainer.data.compressed import COMPRESSIONS, SYNONYMS, ending_of
from trainer.data.conll import read_conll
from trainer.data.delimited import read_delimited, row_lines
from trainer.data.docbin import read_docbin
from trainer.data.json_files import object_lines, read_json, read_json_lines
from trainer.data.read_options import ReadOptions
from trainer.data.text_files import lines_of
from trainer.data.unknown_endings import guessed_ending
from trainer.errors import InputError
from trainer.foreign.files import check_regular

if TYPE_CHECKING:
    import pyarrow as pa

ENDINGS = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".txt", ".conll", ".spacy")
PICKLED = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib", ".npy", ".npz")
EXCEL = (".xlsx", ".xls", ".xlsm", ".ods")
UNREAD = (".arrow", ".feather", ".orc", ".avro", ".zip", ".tar", ".tgz", ".7z", ".lz4", ".rar")
"""Endings of data files that cannot be read."""
DELIMITERS = {".csv": ",", ".tsv": "\t"}
PLAIN = ReadOptions()


def read(path: Path, where: str, *, has_header: bool = True) -> "pa.Table":
    """One file as a table. `trainer.data.column_types` decides the types of its columns."""
    content = read_content(path, where, ReadOptions(has_header=has_header))
    return joined([content], [f"{where}: {path}"])


def read_content(path: Path, where: str, reading: ReadOptions = PLAIN) -> Content:
    """The rows of one file.

    The file's ending decides its compression (.gz .bz2 .xz .zst) and, unless `reading` sets one,
    its format. If the ending is unknown, the file's first bytes decide. Text is UTF-8, with or
    without a byte order mark, unless `reading` sets an encoding.

    - .csv: quoted as in RFC 4180. .tsv: no quoting. Both have a header line; without one, columns
      are named "0", "1", ...
    - .jsonl: one object per line. .json: a list of objects, {"data": [...]}, or an object per line.
    - .txt: a column `text`, one row per line, blank lines included.
    - .conll: sentences of words, see `trainer/data/conll.py`.
    - .spacy: annotated texts, see `trainer/data/docbin.py`.
    - .parquet: columns keep their stored types.

    Raises InputError, with the line number if the fault is in a line.
    """
    place = f"{where}: {path}"
    check_regular(path, where)
    check_ending(path, place)
    try:
        if _is_pickle(path):
            raise InputError(f"{place}: pickle files are not read; accepted: {' '.join(ENDINGS)}")
        ending = format_of(path, place, reading)
        return READERS[ending](path, place, replace(reading, format=ending[1:]))
    except OSError as error:
        raise InputError(f"{place}: cannot be read ({error.strerror or error})") from None


def format_of(path: Path, place: str, reading: ReadOptions) -> str:
    """The format of a file, as an ending of ENDINGS. A guess is logged as a warning."""
    if reading.format is not None:
        return _format_named(reading.format)
    ending = ending_of(path)
    return ending if ending in ENDINGS else guessed_ending(path, place, reading)


def _format_named(name: str) -> str:
    """The format that `dataset.format` names, such as .jsonl for ndjson."""
    return SYNONYMS.get(f".{name}", f".{name}")


def check_ending(path: Path, place: str) -> None:
    """Raise InputError for a format that is known and cannot be read."""
    ending, accepted = ending_of(path), f"accepted: {' '.join(ENDINGS)}"
    if ending in PICKLED:
        raise InputError(f"{place}: pickle files are not read; {accepted}")
    if ending in EXCEL:
        accepted = "accepted: each sheet saved as CSV (UTF-8), in a separate file"
        raise InputError(f"{place}: Excel files are not read; {accepted}")
    if ending in UNREAD:
        compressed = f" (and compressed: {' '.join(COMPRESSIONS)})"
        raise InputError(f"{place}: unknown ending '{path.suffix.lower()}'; {accepted}{compressed}")


def place_in_file(path: Path, row: int, reading: ReadOptions) -> str:
    """The location of a row for messages: "path:line", or "path row N" counted from 1.

    Reads the file again, so that line numbers need not be stored for all rows.
    """
    try:
        version = (path.resolve(), path.stat().st_mtime_ns)
        options = (reading.has_header, reading.encoding, reading.delimiter, reading.format)
        line = _line_numbers(path, version, options)[row]
    except (OSError, ValueError, LookupError):  # rows without lines, or the file has changed
        return f"{path} row {row + 1}"
    return f"{path}:{line}"


@lru_cache(maxsize=1)
def _line_numbers(
    path: Path, version: tuple[Path, int], options: tuple[bool, str | None, str | None, str | None]
) -> Sequence[int]:
    """The line number of each row of this version of a file; empty if rows have no lines."""
    reading = ReadOptions(*options)
    match ending_of(path) if reading.format is None else _format_named(reading.format):
        case ".csv" | ".tsv" as ending:
            return row_lines(path, reading, DELIMITERS[ending])
        case ".jsonl":
            return object_lines(path, reading)
        case ".txt":
            return range(1, len(lines_of(path, str(path), reading.encoding)) + 1)
    return ()


def _is_pickle(path: Path) -> bool:
    """Whether the file starts like pickle protocols 2 to 5. No UTF-8 text starts with 0x80."""
    with path.open("rb") as file:
        start = file.read(2)
    return len(start) == 2 and start[0] == 0x80 and 2 <= start[1] <= 5


def _delimited(path: Path, place: str, reading: ReadOptions) -> Content:
    return read_delimited(path, place, reading, DELIMITERS[f".{reading.format}"])


def _lines_of_text(path: Path, place: str, reading: ReadOptions) -> Content:
    import pyarrow as pa

    lines = lines_of(path, place, reading.encoding)
    return Content("stored", {"text": pa.chunked_array([lines], pa.string())}, len(lines))


def _parquet(path: Path, place: str, reading: ReadOptions) -> Content:
    table = read_parquet(path, place)
    columns = dict(zip(table.column_names, table.columns, strict=True))
    return Content("stored", columns, len(table), class_names(table))


READERS: dict[str, Callable[[Path, str, ReadOptions], Content]] = {
    ".csv": _delimited,
    ".tsv": _delimited,
    ".json": read_json,
    ".jsonl": read_json_lines,
    ".parquet": _parquet,
    ".txt": _lines_of_text,
    ".conll": read_conll,
    ".spacy": read_docbin,
}
