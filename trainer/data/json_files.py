"""JSON files: rows as one object per line, as a list, or as a list within an object."""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from trainer.data.column_types import Content
from trainer.data.read_options import BadRows, ReadOptions
from trainer.data.squad_files import flattened, is_squad
from trainer.data.text_files import lines_of, text_of
from trainer.errors import InputError

log = logging.getLogger("trainer")

WRAPPERS = ("data", "rows", "examples", "records", "instances")
"""Keys under which an object may hold the list of rows."""
JSON_KINDS: dict[type, str] = {
    **{str: "a text", int: "a number", float: "a number", bool: "true or false"},
    **{list: "a list", dict: "an object", type(None): "null"},
}
"""Python type -> the name of the JSON type in messages."""


class RepeatedKey(ValueError):
    """An object has the same key twice. Python's json would silently keep the last value."""


def read_json_lines(path: Path, place: str, reading: ReadOptions) -> Content:
    """The rows of a file with one object per line. Raises InputError with the line at fault."""
    rows, bad, before = [], reading.bad, len(reading.bad.dropped)
    for number, line in _numbered_lines(path, reading, place):
        try:
            row = _parsed(line, place, number)
            rows.append(_object(row, f"{place}:{number}"))
        except InputError as error:
            if not bad.drops:
                raise
            at = f"{place}:{number}"
            bad.refuse(at, error.args[0].removeprefix(f"{at}: "), line)
    bad.check(place, bad.dropped[before:], len(rows) + len(bad.dropped) - before)
    return _content(rows)


def object_lines(path: Path, reading: ReadOptions) -> list[int]:
    """The line number of each row."""
    lines = _numbered_lines(path, reading)
    return [number for number, line in lines if isinstance(_single_value(line, _loads), dict)]


def parsed_object(text: str, at: str) -> dict[str, Any]:
    """The object that a text holds. Raises InputError, which begins with the place `at`."""
    return _object(_parsed(text, at), at)


def read_json(path: Path, place: str, reading: ReadOptions) -> Content:
    """The rows of a list of objects, of an object such as {"data": [...]}, or of JSON lines.

    If the first line is "{", objects that span several lines may follow each other without a list
    around them. A file in SQuAD's format has one row for each question.
    """
    text = text_of(path, place, reading.encoding)
    start = text.lstrip()[:1]
    whole = _parsed(text, place, 1) if start == "[" else _single_value(text)
    if isinstance(whole, dict):
        whole = _listed(_parsed(text, place, 1), place)
    if not isinstance(whole, list) and text.lstrip().partition("\n")[0].strip() == "{":
        whole = list(_consecutive_values(text, place))
    if not isinstance(whole, list):
        return read_json_lines(path, place, reading)
    if is_squad(whole):
        return _content(flattened(whole, place))
    return _content(_objects(whole, place, reading.bad))


def _consecutive_values(text: str, place: str) -> Iterator[Any]:
    """Yield JSON values that follow each other. Raises InputError with the line at fault."""
    decoder = json.JSONDecoder(object_pairs_hook=_object_of)
    start = _next(text, 0)
    while start < len(text):
        try:
            row, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            _parsed(text[start:], place, text.count("\n", 0, start) + 1)  # raises InputError
            raise
        yield row
        start = _next(text, end)


def _next(text: str, start: int) -> int:
    """The index of the first character from `start` on that is not white space."""
    while start < len(text) and text[start].isspace():
        start += 1
    return start


def _numbered_lines(path: Path, reading: ReadOptions, place: str = "") -> Iterator[tuple[int, str]]:
    """(line number, line) for each line that is not blank."""
    lines = lines_of(path, place, reading.encoding)
    return ((number, line) for number, line in enumerate(lines, 1) if line.strip())


def _single_value(text: str, loads: Callable[[str], Any] = json.loads) -> object:
    """The single JSON value of a text; None if the text is not exactly one value."""
    try:
        return loads(text)
    except (ValueError, RecursionError):
        return None


def _listed(found: dict[str, Any], place: str) -> list[Any] | None:
    """The rows in an object such as {"data": [...]}; None if the object is itself a row."""
    names = [name for name in WRAPPERS if isinstance(found.get(name), list)]
    others = [name for name in found if name not in names]
    if len(names) != 1 or any(isinstance(found[name], (list, dict)) for name in others):
        return None
    if others:
        log.warning("%s: rows are '%s'; not read: %s", place, names[0], ", ".join(others))
    rows: list[Any] = found[names[0]]
    return rows


def _objects(found: Sequence[Any], place: str, bad: BadRows) -> list[dict[str, Any]]:
    rows, before = [], len(bad.dropped)
    for number, row in enumerate(found, 1):
        if isinstance(row, dict):
            rows.append(row)
        else:
            bad.refuse(f"{place}: row {number}", _no_object(row), row)
    bad.check(place, bad.dropped[before:], len(found))
    return rows


def _object(row: object, place: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise InputError(f"{place}: {_no_object(row)}")
    return row


def _no_object(row: object) -> str:
    return f"found {JSON_KINDS[type(row)]}; each row must be an object"


def _content(rows: list[dict[str, Any]]) -> Content:
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    return Content("json", columns, len(rows))


def _parsed(text: str, place: str, line: int | None = None) -> Any:
    """The JSON value of a text. `line` is the number of the text's first line in the file.

    `line` is None if `place` already contains it. Raises InputError.
    """

    def at(lines_after: int = 0) -> str:
        return place if line is None else f"{place}:{line + lines_after}"

    try:
        return _loads(text)
    except json.JSONDecodeError as error:
        found = f"bad JSON, {error.msg} at column {error.colno}"
        raise InputError(f"{at(error.lineno - 1)}: {found}") from None
    except RecursionError:
        raise InputError(f"{at()}: bad JSON, nested too deeply") from None
    except ValueError as error:
        # a repeated key, or an integer with too many digits, for which Python's message adds advice
        # after a semicolon
        found = str(error).partition(";")[0]
        raise InputError(f"{at()}: bad JSON, {found}") from None


def _loads(text: str) -> object:
    """Like json.loads, but raises RepeatedKey if an object has a key twice."""
    return json.loads(text, object_pairs_hook=_object_of)


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise RepeatedKey(f"key {twice!r:.60} occurs twice in one object")
    return found
