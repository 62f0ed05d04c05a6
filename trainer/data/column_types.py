"""Column types: decides the type of a column from its cells in all files of a data set.

- csv and tsv: a column holds integers if every cell is a 64-bit integer, written exactly as Python
  prints it. It holds floats if every cell is a float, written exactly as Python prints it.
  Otherwise it holds text. So 007, 1.50, NA and 20-digit ids are text. An empty cell is null in a
  column of numbers, and an empty string in a column of text.
- json and jsonl: values keep their types. A column of one type (text, 64-bit integers, floats,
  booleans, flat lists of one of these) is stored as that type. Any other column stores each cell
  as JSON, with the order of keys, nulls, integers and floats as in the file. A missing key is null.
- parquet: columns keep their stored types. If two files store a column in types that cannot be
  combined without loss, its cells are stored as JSON.
- files of several formats: if another file has a text in the column, the cells of csv and tsv files
  are text; otherwise they are typed as above. Then the rules for json decide the column's type.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from trainer.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Content:
    """The rows of one file, before their types are decided."""

    kind: Literal["text", "json", "stored"]
    """What `columns` holds: arrays of strings (text), lists of values (json) or arrays of any Arrow
    type (stored)."""
    columns: Mapping[str, Any]
    num_rows: int
    class_names: Mapping[str, Any] = field(default_factory=dict)
    """The class names of label columns, from `trainer.data.arrow_files.class_names`."""


def joined(contents: Sequence[Content], places: Sequence[str]) -> "pa.Table":
    """One table of the rows of all files. `places` are the files, for errors. Raises InputError."""
    import pyarrow as pa

    from trainer.data.arrow_files import check_names, with_class_names

    contents = [content for content in contents if content.num_rows] or contents[:1]
    classes = contents[0].class_names
    if any(content.class_names != classes for content in contents):
        raise InputError(f"{places[0]}: its class names differ from other files of the data set")
    names = dict.fromkeys(name for content in contents for name in content.columns)
    check_names(names, places[0])
    kinds = {content.kind for content in contents}
    join = {"text": _joined_text, "json": _joined_json, "stored": _joined_stored}
    join_column = join[kinds.pop()] if len(kinds) == 1 else _joined_mixed
    columns = {}
    for name in names:
        try:
            columns[name] = join_column(name, contents)
        except (pa.ArrowException, ValueError, TypeError) as error:
            found = str(error).splitlines()[0]
            raise InputError(f"{places[0]}: column '{name}': {found}") from None
    return with_class_names(pa.table(columns), classes)


def _joined_text(name: str, contents: Sequence[Content]) -> "pa.ChunkedArray":
    import pyarrow as pa

    return typed(pa.chunked_array([content.columns[name] for content in contents], pa.string()))


def typed(strings: "pa.ChunkedArray") -> "pa.ChunkedArray":
    """The strings as integers or floats if printing them gives the same strings; else unchanged."""
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
    """JSON values as a column of their common type, or as JSON texts if they have none."""
    import pyarrow as pa

    from trainer.data.exact_json import json_array

    kinds = set(map(type, values)) - {type(None)}
    if not kinds:
        return pa.nulls(len(values))
    scalars = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    scalars |= {bytes: pa.large_binary()}  # the files of a tar
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
        except (OverflowError, pa.ArrowInvalid):  # integers beyond 64 bits
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


def _joined_mixed(name: str, contents: Sequence[Content]) -> "pa.Array":
    """A column of files of several formats; the csv cells are typed by the other files' values."""
    import pyarrow as pa

    others = [v for c in contents if c.kind != "text" for v in _values(name, c) if v is not None]
    texts = [content.columns[name] for content in contents if content.kind == "text"]
    strings = pa.chunked_array(texts, pa.string())
    if not any(isinstance(value, str) for value in others):
        strings = typed(strings)
    cells: list[Any] = strings.to_pylist()
    if others and not any(isinstance(value, str) for value in others):
        cells = [None if cell == "" else cell for cell in cells]
    following = iter(cells)
    return of_values(
        [
            next(following) if content.kind == "text" else value
            for content in contents
            for value in _values(name, content)
        ]
    )


def _values(name: str, content: Content) -> Sequence[Any]:
    found = content.columns.get(name, [None] * content.num_rows)
    return found if isinstance(found, list) else found.to_pylist()


def _is_lossless(kinds: "set[pa.DataType]") -> bool:
    """Whether the types differ only in width or memory layout."""
    from pyarrow import types

    families = (
        types.is_integer,
        types.is_floating,
        lambda kind: types.is_string(kind) or types.is_large_string(kind),
    )
    return any(all(map(family, kinds)) for family in families)
