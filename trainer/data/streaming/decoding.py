"""Decoding: turns stored rows of shards into tables, and records the location of each row."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer.data.arrow_files import plain_table
from trainer.data.column_types import Content, joined
from trainer.data.json_files import parsed_object
from trainer.data.read_options import BadRows, NoSamples
from trainer.data.renamed_columns import renamed
from trainer.data.row_locations import record_places
from trainer.data.streaming.raw_rows import KEY, RawRows
from trainer.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

TEXTS = ("txt", "text", "transcript")
INTEGERS = ("cls", "cls2", "class", "count", "index", "inx", "id")
JSONS = ("json", "jsn")
"""TEXTS, INTEGERS and JSONS: the endings of files in a tar that are decoded.

Other files stay bytes, as in `datasets`.
"""


@dataclass(frozen=True)
class Decoder:
    """Decodes the rows of shards of one format."""

    format: str
    """parquet, jsonl or tar."""
    names: tuple[str, ...]
    """The names of all shards, for error messages."""
    columns: Mapping[str, str]
    """Columns to rename, as {old name: new name}."""
    unread: frozenset[str] = frozenset()
    """Columns to leave out of the table, by their old names."""

    def table(
        self, raw: RawRows, bad: BadRows, where: str = "dataset.train", are_all: bool = True
    ) -> "Dataset":
        """The rows as a table. Raises InputError for a row that cannot be read.

        If `are_all` is false, the rows are a few of many, none of which may happen to have a key
        that others have; columns to rename may then be missing.
        """
        from trainer.data.exact_json import dataset_of

        places = [self._place(raw, number) for number in range(len(raw))]
        if self.format == "parquet":
            rows = dataset_of(plain_table(raw.table, raw.table.nbytes, f"{where}: {places[0]}"))
        else:
            decode = _object_of_line if self.format == "jsonl" else _cells_of_entry
            cells, places = _usable(raw, places, decode, bad, where)
            if not cells:
                first = f"{bad.dropped[-1].place}: {bad.dropped[-1].reason}"
                raise NoSamples(f"{where}: {len(raw)} rows, all of them bad, the last: {first}")
            rows = dataset_of(joined([_content(cells, self.unread)], [f"{where}: {places[0]}"]))
        columns = {old: new for old, new in self.columns.items() if old not in self.unread}
        if not are_all and self.format != "parquet":
            columns = {old: new for old, new in columns.items() if old in rows.column_names}
        rows = renamed(rows, columns, f"dataset.columns: {where}: {places[0]}")
        return record_places(rows, places)

    def _place(self, raw: RawRows, number: int) -> str:
        name, place = self.names[int(raw.shards[number])], int(raw.places[number])
        return f"{name}:{place}" if self.format == "jsonl" else f"{name} row {place}"


Cells = dict[str, Any]


def _usable(
    raw: RawRows,
    places: Sequence[str],
    decode: Callable[[Cells, str], Cells],
    bad: BadRows,
    where: str,
) -> tuple[list[Cells], list[str]]:
    """The cells of the rows that can be decoded, and the locations of these rows."""
    found, kept, before = [], [], len(bad.dropped)
    for place, row in zip(places, raw.table.to_pylist(), strict=True):
        at = f"{where}: {place}"
        try:
            found.append(decode(row, at))
            kept.append(place)
        except InputError as error:
            if not bad.drops:
                raise
            bad.refuse(at, error.args[0].removeprefix(f"{at}: "), row)
    bad.check(where, bad.dropped[before:], len(places))
    return found, kept


def _content(rows: Sequence[Cells], unread: frozenset[str]) -> Content:
    """The cells as columns, without the `unread` columns unless these are the only ones."""
    names = dict.fromkeys(name for row in rows for name in row)
    names = {name: None for name in names if name not in unread} or names
    return Content("json", {n: [row.get(n) for row in rows] for n in names}, len(rows))


def _object_of_line(row: Cells, at: str) -> Cells:
    return parsed_object(_text(row["line"], at), at)


def _cells_of_entry(row: Cells, at: str) -> Cells:
    """The cells of a row in a tar: texts, integers, the entries of JSON objects, or bytes."""
    found: Cells = {}
    for name, content in row.items():
        kind = name.rpartition(".")[2]
        if content is None:
            continue
        if name == KEY or kind in TEXTS:
            found[name] = _text(content, f"{at}: {name}")
        elif kind in INTEGERS:
            found[name] = _integer(_text(content, f"{at}: {name}"), f"{at}: {name}")
        elif kind in JSONS:
            entries = parsed_object(_text(content, f"{at}: {name}"), f"{at}: {name}")
            found |= {f"{name}.{key}": cell for key, cell in entries.items()}
        else:
            found[name] = content
    return found


def _text(content: bytes, at: str) -> str:
    try:
        return content.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        found = f"byte 0x{content[error.start]:02x} is not UTF-8"
        raise InputError(f"{at}: {found}; shards of texts must be UTF-8") from None


def _integer(text: str, at: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InputError(f"{at}: found {text!r:.40}; accepted: a whole number") from None
