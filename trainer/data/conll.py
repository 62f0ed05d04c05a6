"""CoNLL files: sentences with one word per line, and columns such as tags."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.data.column_types import Content
from trainer.data.read_options import ReadOptions
from trainer.data.text_files import lines_of
from trainer.errors import InputError
from trainer.plurals import plural

if TYPE_CHECKING:
    import pyarrow as pa

DOCUMENT = "-DOCSTART-"
"""The document separator in CoNLL-2003 files, which is skipped."""


def read_conll(path: Path, place: str, reading: ReadOptions) -> Content:
    """The rows of a file: a list of words, and a list for each further column.

    Cells are separated by TABs or, in a file without TABs, by spaces; blank lines separate
    sentences. In files with TABs, lines that start with "# " and have no TAB are comments
    (CoNLL-U). The first column is named `tokens`, the last one `tags`, and the columns between them
    "1", "2" and so on. `dataset.columns` can rename them, so that any column can hold the words or
    the tags. Every line must have as many cells as the first. Raises InputError with the line at
    fault.
    """
    sentences = list(_sentences(lines_of(path, place, reading.encoding), place))
    if not sentences:  # the width is unknown, so the file has no columns, like an empty csv file
        return Content("stored", {}, 0)
    width = len(sentences[0][0])
    names = ["tokens", *map(str, range(1, width - 1)), "tags"][:width]
    columns = {
        name: _lists([[cells[number] for cells in lines] for lines in sentences])
        for number, name in enumerate(names)
    }
    return Content("stored", columns, len(sentences))


def _lists(cells: list[list[str]]) -> "pa.ChunkedArray":
    import pyarrow as pa

    return pa.chunked_array([cells], pa.list_(pa.string()))


def _sentences(lines: list[str], place: str) -> Iterator[list[list[str]]]:
    """Yield each sentence as a list of lines, where a line is a list of cells."""
    tabbed = any("\t" in line for line in lines)
    width, first = 0, 0
    sentence: list[list[str]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            if sentence:
                yield sentence
            sentence = []
            continue
        if tabbed and line.startswith("# ") and "\t" not in line:
            continue
        cells = line.split("\t") if tabbed else line.split()
        width, first = width or len(cells), first or number
        if len(cells) != width or not all(cell.strip() for cell in cells):
            raise InputError(f"{place}:{number}: {_fault(line, cells, width, first, tabbed)}")
        if cells[0] != DOCUMENT:
            sentence.append(cells)
        elif sentence:  # no blank line is before the document
            yield sentence
            sentence = []
    if sentence:
        yield sentence


def _fault(line: str, cells: list[str], width: int, first: int, tabbed: bool) -> str:
    separator = "TABs" if tabbed else "spaces"
    found = f"{line!r:.60} has {plural(len(cells), 'cell')} (separated by {separator})"
    if len(cells) == width:
        return f"{line!r:.60} has an empty cell; accepted: {width} cells with content"
    return f"{found}; accepted: {width}, as in line {first}"
