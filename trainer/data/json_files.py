"""JSON files: rows as objects, one a line, as a list, or as the one list of an object."""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from trainer.data.cells import Content
from trainer.data.reading import BadRows, Reading
from trainer.data.text_files import lines_of, text_of
from trainer.errors import InputError

log = logging.getLogger(__name__)

WRAPPERS = ("data", "rows", "examples", "records", "instances")
"""Keys under which an object may hold all rows."""
JSON_KINDS: dict[type, str] = {
    **{str: "a text", int: "a number", float: "a number", bool: "true or false"},
    **{list: "a list", dict: "an object", type(None): "null"},
}
"""What JSON calls the types that Python reads it as."""


class RepeatedKey(ValueError):
    """An object has a key twice: Python would keep the last value in silence."""


def read_json_lines(path: Path, place: str, reading: Reading) -> Content:
    """One object a line. Raises InputError with the line that is wrong."""
    rows, bad, before = [], reading.bad, len(reading.bad.dropped)
    for number, line in _numbered_lines(path, reading, place):
        try:
            row = _parsed(line, place, number)
            rows.append(_object(row, f"{place}:{number}"))
        except InputError as error:
            if not bad.drops:
                raise
            at = f"{place}:{number}"
            bad.refuse(at, str(error).removeprefix(f"{at}: "), line)
    bad.check(place, bad.dropped[before:], len(rows) + len(bad.dropped) - before)
    return _content(rows)


def object_lines(path: Path, reading: Reading) -> list[int]:
    """The line of each row."""
    lines = _numbered_lines(path, reading)
    return [number for number, line in lines if isinstance(_whole(line, _loads), dict)]


def read_json(path: Path, place: str, reading: Reading) -> Content:
    """A list of objects, an object with one such list ({"data": [...]}), or as read_json_lines."""
    text = text_of(path, place, reading.encoding)
    start = text.lstrip()[:1]
    whole = _parsed(text, place, 1) if start == "[" else _whole(text)
    if isinstance(whole, dict):
        whole = _listed(_parsed(text, place, 1), place)
    if not isinstance(whole, list):
        return read_json_lines(path, place, reading)
    return _content(_objects(whole, place, reading.bad))


def _numbered_lines(path: Path, reading: Reading, place: str = "") -> Iterator[tuple[int, str]]:
    """The lines that hold something, with their numbers."""
    lines = lines_of(path, place, reading.encoding)
    return ((number, line) for number, line in enumerate(lines, 1) if line.strip())


def _whole(text: str, loads: Callable[[str], Any] = json.loads) -> Any:
    """The one value that a text holds; None where it holds none, or several."""
    try:
        return loads(text)
    except (ValueError, RecursionError):
        return None


def _listed(found: dict[str, Any], place: str) -> list[Any] | None:
    """The rows that an object wraps, as {"data": [...]}; None where it is a row itself."""
    names = [name for name in WRAPPERS if isinstance(found.get(name), list)]
    others = [name for name in found if name not in names]
    if len(names) != 1 or any(isinstance(found[name], (list, dict)) for name in others):
        return None
    if others:
        log.warning("%s: rows are '%s'; not read: %s", place, names[0], ", ".join(others))
    return found[names[0]]


def _objects(found: Sequence[Any], place: str, bad: BadRows) -> list[dict[str, Any]]:
    rows, before = [], len(bad.dropped)
    for number, row in enumerate(found, 1):
        if isinstance(row, dict):
            rows.append(row)
        else:
            bad.refuse(f"{place}: row {number}", _no_object(row), row)
    bad.check(place, bad.dropped[before:], len(found))
    return rows


def _object(row: Any, place: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise InputError(f"{place}: {_no_object(row)}")
    return row


def _no_object(row: Any) -> str:
    return f"found {JSON_KINDS[type(row)]}; each row must be an object"


def _content(rows: list[dict[str, Any]]) -> Content:
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    return Content("json", columns, len(rows))


def _parsed(text: str, place: str, line: int) -> Any:
    try:
        return _loads(text)
    except json.JSONDecodeError as error:
        found = f"bad JSON, {error.msg} at column {error.colno}"
        raise InputError(f"{place}:{line + error.lineno - 1}: {found}") from None
    except RecursionError:
        raise InputError(f"{place}:{line}: bad JSON, nested too deeply") from None
    except ValueError as error:  # a whole number of too many digits; after ; stands what to call
        found = str(error).partition(";")[0]
        raise InputError(f"{place}:{line}: bad JSON, {found}") from None


def _loads(text: str) -> Any:
    """As json.loads; raises RepeatedKey where an object has a key twice."""
    return json.loads(text, object_pairs_hook=_object_of)


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise RepeatedKey(f"key {twice!r:.60} occurs twice in one object")
    return found
