"""Parquet and Arrow files of others: bounded, validated in full, made of plain types alone.

Arrow's own readers trust offsets and lengths, and `datasets` obeys what a file's metadata say: an
Image column opens the path or address in each row. So metadata are dropped, but for the names of
class labels, and no buffer is used before it was checked.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.data.compressed import COMPRESSIONS, bytes_of
from trainer.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

FEATURES = b"huggingface"
"""The metadata entry in which `datasets` describes the columns."""
EXPANSION = 1000
"""How many times the size of its file a table may have in memory."""
FLOOR = 1 << 30
"""Bytes that any table may have in memory."""
MAX_METADATA = 16 << 20
ROWS_AT_A_TIME = 4096
"""Rows that are decoded together, so that a bomb is noticed before it fills the memory."""


def read_parquet(path: Path, place: str) -> "pa.Table":
    """The rows of a parquet file as `plain_table` leaves them. Raises InputError at `place`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    packed = path.suffix.lower() in COMPRESSIONS
    try:
        source = pa.BufferReader(bytes_of(path, place)) if packed else path
        with pq.ParquetFile(source, thrift_string_size_limit=MAX_METADATA) as file:
            schema = file.schema_arrow
            batches = file.iter_batches(ROWS_AT_A_TIME)
            table = pa.Table.from_batches(_bounded(batches, path, place), schema)
        return plain_table(table, path, place)
    except (pa.ArrowException, OSError, ValueError, TypeError, MemoryError) as error:
        raise _unreadable(place, "parquet", error) from None


def read_arrow(path: Path, place: str) -> "pa.Table":
    """The rows of an Arrow stream or file, memory-mapped, as `plain_table` leaves them."""
    import pyarrow as pa

    try:
        source = pa.memory_map(str(path))
        try:
            batches: Iterable[Any] = pa.ipc.open_stream(source)
            schema = batches.schema  # type: ignore[attr-defined]
        except pa.ArrowInvalid:
            file = pa.ipc.open_file(source)
            batches = (file.get_batch(i) for i in range(file.num_record_batches))
            schema = file.schema
        table = pa.Table.from_batches(_bounded(batches, path, place), schema)
        return plain_table(table, path, place)
    except (pa.ArrowException, OSError, ValueError, TypeError, MemoryError) as error:
        raise _unreadable(place, "Arrow", error) from None


def plain_table(table: "pa.Table", path: Path, place: str) -> "pa.Table":
    """A table whose every buffer was checked, without metadata, in plain types.

    Dictionaries become what they stand for. The names of class labels stay, in metadata that are
    written here. Raises InputError for types that are not plain, and for what grows too much.
    """
    import pyarrow as pa

    table.validate(full=True)
    described = _described(table.schema.metadata)
    names = table.column_names
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{place}: column '{twice}' occurs twice; names must differ")
    columns = [
        _plain(table.column(i), f"{place}: column '{name:.40}'", path)
        for i, name in enumerate(names)
    ]
    return with_class_names(pa.table(columns, names), described)


def check_names(names: Iterable[str], place: str) -> None:
    """Refuse column names that Arrow cuts short or cannot hold. Raises InputError at `place`."""
    for name in names:
        if "\0" in name or any("\ud800" <= letter <= "\udfff" for letter in name):
            found = "a NUL" if "\0" in name else "half of a surrogate pair"
            raise InputError(
                f"{place}: column {name!r:.60} has {found} in its name; accepted: text"
            )


def _bounded(batches: Iterable[Any], path: Path, place: str) -> Iterable[Any]:
    """The batches, as long as all together stay within what a file of this size may hold."""
    size = 0
    limit = _limit(path)
    for batch in batches:
        size += batch.nbytes
        if size > limit:
            raise InputError(f"{place}: holds more than {limit:,} bytes; {_accepted(path)}")
        yield batch


def _limit(path: Path) -> int:
    return max(FLOOR, EXPANSION * path.stat().st_size)


def _accepted(path: Path) -> str:
    return f"accepted: at most {EXPANSION} times the {path.stat().st_size:,} bytes of its file"


def _plain(column: "pa.ChunkedArray", where: str, path: Path) -> "pa.ChunkedArray":
    import pyarrow as pa

    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], kind.storage_type)
    elif pa.types.is_dictionary(kind):
        _check_dictionary(column, where, path)
        column = column.cast(kind.value_type)
    if (odd := _not_plain(column.type)) is not None:
        accepted = "numbers, texts, bytes, dates, and lists and structs of them"
        raise InputError(f"{where} is of type {odd}; accepted: {accepted}")
    bare = _without_metadata(column.type)
    return column if column.type.equals(bare, check_metadata=True) else column.cast(bare)


def _check_dictionary(column: "pa.ChunkedArray", where: str, path: Path) -> None:
    """Refuse a dictionary whose entries, each as often as it occurs, do not fit."""
    import pyarrow as pa
    import pyarrow.compute as pc

    value_type = column.type.value_type
    texts = (pa.types.is_string, pa.types.is_binary, pa.types.is_large_string)
    if not any(is_text(value_type) for is_text in (*texts, pa.types.is_large_binary)):
        return
    size = 0
    for chunk in column.chunks:
        lengths = pc.binary_length(chunk.dictionary).cast(pa.int64())
        size += pc.sum(lengths.take(chunk.indices)).as_py() or 0
    if size > _limit(path):
        raise InputError(f"{where} holds {size:,} bytes; {_accepted(path)}")


def _not_plain(kind: "pa.DataType") -> "pa.DataType | None":
    """The first type in `kind` that is none of a table of plain values."""
    import pyarrow as pa

    t = pa.types
    if t.is_list(kind) or t.is_large_list(kind) or t.is_fixed_size_list(kind):
        return _not_plain(kind.value_type)
    if t.is_struct(kind):
        fields = [kind.field(i) for i in range(kind.num_fields)]
        return next((odd for f in fields if (odd := _not_plain(f.type)) is not None), None)
    if t.is_map(kind):
        return _not_plain(kind.key_type) or _not_plain(kind.item_type)
    plain = (t.is_null, t.is_boolean, t.is_integer, t.is_floating, t.is_decimal, t.is_temporal)
    texts = (t.is_string, t.is_large_string, t.is_binary, t.is_large_binary)
    return None if any(is_kind(kind) for is_kind in (*plain, *texts)) else kind


def _without_metadata(kind: "pa.DataType") -> "pa.DataType":
    """The same type, its inner fields without metadata."""
    import pyarrow as pa

    t = pa.types
    if t.is_struct(kind):
        fields = [kind.field(i) for i in range(kind.num_fields)]
        return pa.struct([pa.field(f.name, _without_metadata(f.type)) for f in fields])
    if t.is_fixed_size_list(kind):
        return pa.list_(_without_metadata(kind.value_type), kind.list_size)
    if t.is_list(kind):
        return pa.list_(_without_metadata(kind.value_type))
    return pa.large_list(_without_metadata(kind.value_type)) if t.is_large_list(kind) else kind


def class_names(table: "pa.Table") -> dict[str, Any]:
    """Which columns are class labels, and of what names: what `with_class_names` takes."""
    described = _described(table.schema.metadata)
    return {name: entry for name, entry in described.items() if "ClassLabel" in json.dumps(entry)}


def _described(metadata: Mapping[bytes, bytes] | None) -> Any:
    """What `datasets` wrote of the columns, as plain JSON; nothing where it cannot be read."""
    text = (metadata or {}).get(FEATURES, b"")
    if not text or len(text) > MAX_METADATA:
        return {}
    try:
        return json.loads(text)["info"]["features"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return {}


def with_class_names(table: "pa.Table", described: Any) -> "pa.Table":
    """The table with metadata of our own, where the description names classes."""
    from datasets import Features

    if not isinstance(described, Mapping) or "ClassLabel" not in json.dumps(described):
        return table
    features = Features.from_arrow_schema(table.schema)
    named = Features(
        {name: _named(feature, described.get(name)) for name, feature in features.items()}
    )
    if named == features:
        return table
    return table.cast(named.arrow_schema)


def _named(feature: Any, described: Any) -> Any:
    """The feature, or class labels where it is whole numbers and the description names them."""
    from datasets import ClassLabel, List, Value

    if not isinstance(described, Mapping):
        return feature
    inner = described.get("feature")
    if isinstance(feature, List) and inner is not None:
        return List(_named(feature.feature, inner), length=feature.length)
    names = described.get("names")
    whole = isinstance(feature, Value) and feature.dtype.startswith(("int", "uint"))
    valid = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if described.get("_type") != "ClassLabel" or not whole or not valid:
        return feature
    return ClassLabel(names=names) if names and len(set(names)) == len(names) else feature


def _unreadable(place: str, kind: str, error: BaseException) -> InputError:
    if isinstance(error, InputError):
        return error
    found = (str(error) or type(error).__name__).splitlines()[0]
    return InputError(f"{place}: not a whole {kind} file ({found:.200})")
