"""Unknown endings: guesses the format of a data file from its first bytes."""

import csv
import logging
from pathlib import Path

from trainer.data.compressed import COMPRESSIONS, bytes_of
from trainer.data.read_options import ReadOptions
from trainer.errors import InputError

log = logging.getLogger("trainer")

START = 1 << 16
"""The number of bytes that are read."""
LINES = 20
"""The number of lines whose cells are counted to recognize a table."""
DELIMITED = {"\t": ".tsv", ",": ".csv"}


def guessed_ending(path: Path, place: str, reading: ReadOptions) -> str:
    """Guess the ending that the file should have, and log a warning with it.

    A parquet file begins with PAR1, and JSON with a bracket or brace. Lines with equal numbers of
    cells are a table. Anything else is text with one row per line. Raises InputError for binary
    data.
    """
    start = _start(path, place)
    if start[:4] == b"PAR1":
        found = ".parquet"
    else:
        lines = _decoded(start, place, reading).splitlines()
        if len(start) == START:
            del lines[-1]  # the last line may be cut
        found = _of_lines([line for line in lines if line.strip()][:LINES], reading)
    log.warning("%s: no known ending; read as %s (dataset.format chooses another)", place, found)
    return found


def _of_lines(lines: list[str], reading: ReadOptions) -> str:
    if lines and lines[0].lstrip()[:1] in ("{", "["):
        return ".jsonl" if len(lines) > 1 and all(map(_is_object, lines)) else ".json"
    for delimiter, ending in DELIMITED.items():
        if reading.delimiter not in (None, delimiter):
            continue
        cells = {len(row) for row in csv.reader(lines, delimiter=delimiter)}
        if len(lines) > 1 and len(cells) == 1 and cells != {1}:
            return ending
    return ".csv" if reading.delimiter is not None else ".txt"


def _is_object(line: str) -> bool:
    return line.lstrip().startswith("{") and line.rstrip().endswith("}")


def _start(path: Path, place: str) -> bytes:
    if path.suffix.lower() in COMPRESSIONS:
        return bytes_of(path, place)[:START]
    with path.open("rb") as file:
        return file.read(START)


def _decoded(start: bytes, place: str, reading: ReadOptions) -> str:
    """The text of a file's first bytes, of which the last character may be cut."""
    if b"\0" in start and not start.startswith((b"\xff\xfe", b"\xfe\xff")):
        accepted = "accepted: text, or parquet"
        raise InputError(f"{place}: no known ending, and binary data inside; {accepted}")
    wide = start.startswith((b"\xff\xfe", b"\xfe\xff"))
    encoding = reading.encoding or ("utf-16" if wide else "utf-8-sig")
    return start.decode(encoding, errors="replace")
