"""Cells: the one rule for what a cell of a file is, applied to all files of a set together.

- csv and tsv: a column holds whole numbers if each of its cells is one that prints back to the
  same characters and fits 64 bits; numbers with fractions likewise, as Python prints them; else
  text. So 007, 1.50, NA and 20-digit ids are text. An empty cell is missing: null in a column of
  numbers, an empty text in a column of text.
- json and jsonl: a cell is what the file says. Columns of one kind (text, whole numbers of 64 bits,
  numbers with fractions, true and false, flat lists of one of these) are stored as such. All other
  columns keep each cell as JSON: keys in their order, nulls, whole and other numbers, kinds that
  differ by row. A key that an object lacks is null.
- parquet: a cell is as it is stored. Where the files of a set store a column differently, so that
  values would change, its cells are kept as JSON.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from trainer.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Content:
    """The rows of one file before their types are decided."""

    kind: Literal["text", "json", "stored"]
    """What `columns` holds: arrays of strings, lists of values, or arrays of any type."""
    columns: Mapping[str, Any]
    num_rows: int
    class_names: Mapping[str, Any] = field(default_factory=dict)
    """Of columns of class labels, as `trainer.data.foreign_tables.class_names` finds them."""


def joined(contents: Sequence[Content], places: Sequence[str]) -> "pa.Table":
    """All rows as one table; `places` names the files in errors. Raises InputError."""
    import pyarrow as pa

    from trainer.data.foreign_tables import check_names, with_class_names

    contents = [content for content in contents if content.num_rows] or contents[:1]
    classes = contents[0].class_names
    if any(content.class_names != classes for content in contents):
        raise InputError(f"{places[0]}: names its classes otherwise than other files of the set")
    names = dict.fromkeys(name for content in contents for name in content.columns)
    check_names(names, places[0])
    join = {"text": _joined_text, "json": _joined_json, "stored": _joined_stored}
    columns = {}
    for name in names:
        try:
            columns[name] = join[contents[0].kind](name, contents)
        except (pa.ArrowException, ValueError, TypeError) as error:
            found = str(error).splitlines()[0]
            raise InputError(f"{places[0]}: column '{name}': {found}") from None
    return with_class_names(pa.table(columns), classes)


def _joined_text(name: str, contents: Sequence[Content]) -> "pa.ChunkedArray":
    import pyarrow as pa

    return typed(pa.chunked_array([content.columns[name] for content in contents], pa.string()))


def typed(strings: "pa.ChunkedArray") -> "pa.ChunkedArray":
    """Numbers where each cell, printed, has its own characters again; else the strings."""
    import pyarrow as pa
    import pyarrow.compute as pc

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
    except pa.ArrowInvalid:
        return strings
    cells = zip(filled.to_pylist(), floats.to_pylist(), strict=True)
    exact = all(text is None or repr(value) == text for text, value in cells)
    return floats if exact and pc.all(pc.is_finite(floats)).as_py() else strings


def _joined_json(name: str, contents: Sequence[Content]) -> "pa.Array":
    values: list[Any] = []
    for content in contents:
        values += content.columns.get(name) or [None] * content.num_rows
    return of_values(values)


def of_values(values: Sequence[Any]) -> "pa.Array":
    """JSON values as a column of their one kind, or each as JSON where they have several."""
    import pyarrow as pa

    from trainer.data.exact_json import json_array

    kinds = set(map(type, values)) - {type(None)}
    if not kinds:
        return pa.nulls(len(values))
    scalars = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    kind: Any = kinds.pop() if len(kinds) == 1 else None
    found = scalars.get(kind)
    if kind is list:
        inner = {type(entry) for value in values for entry in value or ()}
        found = (
            pa.list_(scalars[inner.pop()]) if len(inner) == 1 and inner <= set(scalars) else None
        )
    if found is not None:
        try:
            return pa.array(values, found)
        except (OverflowError, pa.ArrowInvalid):  # whole numbers beyond 64 bits
            pass
    return json_array(values)


def _joined_stored(name: str, contents: Sequence[Content]) -> "pa.ChunkedArray":
    import pyarrow as pa

    arrays = [content.columns[name] for content in contents]
    kinds = {array.type for array in arrays if not pa.types.is_null(array.type)}
    if len(kinds) <= 1 or _is_lossless(kinds):
        tables = [pa.table({name: array}) for array in arrays]
        return pa.concat_tables(tables, promote_options="permissive").column(name)
    return pa.chunked_array([of_values([v for array in arrays for v in array.to_pylist()])])


def _is_lossless(kinds: "set[pa.DataType]") -> bool:
    """Whether types differ by width or layout alone."""
    from pyarrow import types

    families = (
        types.is_integer,
        types.is_floating,
        lambda kind: types.is_string(kind) or types.is_large_string(kind),
    )
    return any(all(map(family, kinds)) for family in families)
