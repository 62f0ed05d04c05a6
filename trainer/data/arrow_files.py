"""Parquet and Arrow files from untrusted sources, checked and converted to plain types.

Arrow's readers trust offsets and lengths, and `datasets` applies the metadata of a file: an Image
column opens the path or URL in each row. Therefore every buffer is validated before use, and all
metadata except the names of class labels is dropped.
"""

import json
from collections import Counter
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
"""The maximum size of a table in memory, as a multiple of the size of its file."""
FLOOR = 1 << 30
"""The size in bytes that a table may always have in memory, however small its file is."""
MAX_METADATA = 16 << 20
ROWS_AT_A_TIME = 4096
"""Rows decoded at a time, so that a decompression bomb is detected before it fills the memory."""


def read_parquet(path: Path, place: str) -> "pa.Table":
    """The rows of a parquet file, checked by `plain_table`. Raises InputError, naming `place`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    packed = path.suffix.lower() in COMPRESSIONS
    try:
        source = pa.BufferReader(bytes_of(path, place)) if packed else path
        with pq.ParquetFile(source, thrift_string_size_limit=MAX_METADATA) as file:
            schema = file.schema_arrow
            batches = file.iter_batches(ROWS_AT_A_TIME)
            table = pa.Table.from_batches(_bounded(batches, path, place), schema)
        return plain_table(table, path.stat().st_size, place)
    except (pa.ArrowException, OSError, ValueError, TypeError, MemoryError) as error:
        raise _unreadable(place, "parquet", error) from None


def read_arrow(path: Path, place: str) -> "pa.Table":
    """The rows of an Arrow stream or file, memory-mapped and checked by `plain_table`.

    Raises InputError, naming `place`.
    """
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
        return plain_table(table, path.stat().st_size, place)
    except (pa.ArrowException, OSError, ValueError, TypeError, MemoryError) as error:
        raise _unreadable(place, "Arrow", error) from None


def plain_table(table: "pa.Table", size: int, place: str) -> "pa.Table":
    """Validate every buffer, and return the table with plain types and without its metadata.

    Dictionary columns are decoded, and maps become lists of {key, value}. The names of class labels
    are written to new metadata. `size` is the size of the file in bytes. Raises InputError for a
    type that is not plain, for two columns of the same name, and for a column that exceeds the size
    limit when it is decoded. Raises pyarrow.ArrowInvalid for a malformed buffer.
    """
    import pyarrow as pa

    table.validate(full=True)
    described = _described(table.schema.metadata)
    names = table.column_names
    check_unique(names, place)
    columns = [
        _plain(table.column(i), f"{place}: column '{name:.40}'", size)
        for i, name in enumerate(names)
    ]
    return with_class_names(pa.table(columns, names), described)


def check_unique(names: Iterable[str], place: str) -> None:
    """Raise InputError if two columns have the same name."""
    twice = [name for name, number in Counter(names).items() if number > 1]
    if twice:
        raise InputError(f"{place}: column '{twice[0]}' occurs twice; names must differ")


def check_names(names: Iterable[str], place: str) -> None:
    """Raise InputError for column names that Arrow truncates or cannot store."""
    for name in names:
        if "\0" in name or any("\ud800" <= character <= "\udfff" for character in name):
            found = "a NUL" if "\0" in name else "half of a surrogate pair"
            raise InputError(
                f"{place}: column {name!r:.60} has {found} in its name; accepted: a name without it"
            )


def _bounded(batches: Iterable[Any], path: Path, place: str) -> Iterable[Any]:
    """Yield the batches. Raises InputError once their total size exceeds the file's limit."""
    size = 0
    limit = _limit(path.stat().st_size)
    for batch in batches:
        size += batch.nbytes
        if size > limit:
            raise InputError(
                f"{place}: holds more than {limit:,} bytes; {_accepted(path.stat().st_size)}"
            )
        yield batch


def _limit(size: int) -> int:
    return max(FLOOR, EXPANSION * size)


def _accepted(size: int) -> str:
    return f"accepted: at most {EXPANSION} times the {size:,} bytes of its file"


def _plain(column: "pa.ChunkedArray", where: str, size: int) -> "pa.ChunkedArray":
    import pyarrow as pa

    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], kind.storage_type)
    column = _without_views(column, where, size)
    if pa.types.is_dictionary(column.type):
        _check_dictionary(column, where, size)
        column = column.cast(column.type.value_type)
    if (listed := _kind_without_maps(column.type)) != column.type:
        column = column.cast(listed)
    if (odd := _not_plain(column.type)) is not None:
        accepted = "numbers, texts, bytes, dates, and lists and structs of them"
        raise InputError(f"{where} is of type {odd}; accepted: {accepted}")
    bare = _without_metadata(column.type)
    return column if column.type.equals(bare, check_metadata=True) else column.cast(bare)


def _without_views(column: "pa.ChunkedArray", where: str, size: int) -> "pa.ChunkedArray":
    """Convert string and binary views, also inside other types, to large strings and binaries."""
    import pyarrow as pa

    is_dictionary = pa.types.is_dictionary(column.type)
    kind = column.type.value_type if is_dictionary else column.type
    whole = _kind_without_views(kind)
    if whole == kind:
        return column
    parts = [chunk.dictionary if is_dictionary else chunk for chunk in column.chunks]
    _check_size(sum(map(_viewed_bytes, parts)), where, size)  # many views may share the same bytes
    if not is_dictionary:
        return column.cast(whole)
    chunks = [
        pa.DictionaryArray.from_arrays(chunk.indices, part.cast(whole))
        for chunk, part in zip(column.chunks, parts, strict=True)
    ]
    return pa.chunked_array(chunks, pa.dictionary(column.type.index_type, whole))


def _kind_without_views(kind: "pa.DataType") -> "pa.DataType":
    import pyarrow as pa

    t = pa.types
    if t.is_string_view(kind):
        return pa.large_string()
    if t.is_binary_view(kind):
        return pa.large_binary()
    if t.is_struct(kind):
        fields = [kind.field(i) for i in range(kind.num_fields)]
        return pa.struct([f.with_type(_kind_without_views(f.type)) for f in fields])
    if t.is_map(kind):
        parts = [_kind_without_views(each) for each in (kind.key_type, kind.item_type)]
        return kind if parts == [kind.key_type, kind.item_type] else pa.map_(*parts)
    if not (t.is_list(kind) or t.is_large_list(kind) or t.is_fixed_size_list(kind)):
        return kind
    field = kind.value_field.with_type(_kind_without_views(kind.value_type))
    if t.is_fixed_size_list(kind):
        return pa.list_(field, kind.list_size)
    return pa.list_(field) if t.is_list(kind) else pa.large_list(field)


def _kind_without_maps(kind: "pa.DataType") -> "pa.DataType":
    """The type with maps as lists of {key, value}, at any depth, since `datasets` has no maps."""
    import pyarrow as pa

    t = pa.types
    if t.is_map(kind):
        parts = {"key": kind.key_type, "value": kind.item_type}
        return pa.list_(pa.struct([(n, _kind_without_maps(part)) for n, part in parts.items()]))
    if t.is_struct(kind):
        fields = [kind.field(i) for i in range(kind.num_fields)]
        return pa.struct([f.with_type(_kind_without_maps(f.type)) for f in fields])
    if not (t.is_list(kind) or t.is_large_list(kind) or t.is_fixed_size_list(kind)):
        return kind
    field = kind.value_field.with_type(_kind_without_maps(kind.value_type))
    if t.is_fixed_size_list(kind):
        return pa.list_(field, kind.list_size)
    return pa.list_(field) if t.is_list(kind) else pa.large_list(field)


def _check_dictionary(column: "pa.ChunkedArray", where: str, file_size: int) -> None:
    """Raise InputError if decoding a dictionary column would exceed the limit."""
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
    _check_size(size, where, file_size)


def _viewed_bytes(chunk: "pa.Array") -> int:
    """The total length of all views in an array: the first four bytes of a view are its length."""
    import numpy as np
    import pyarrow as pa

    t = pa.types
    if t.is_struct(chunk.type) or t.is_map(chunk.type):
        parts = chunk.flatten() if t.is_struct(chunk.type) else (chunk.keys, chunk.items)
        return sum(map(_viewed_bytes, parts))
    if t.is_list(chunk.type) or t.is_large_list(chunk.type) or t.is_fixed_size_list(chunk.type):
        return _viewed_bytes(chunk.flatten())
    if not (t.is_string_view(chunk.type) or t.is_binary_view(chunk.type)):
        return 0
    views = np.frombuffer(chunk.buffers()[1], dtype=np.int32).reshape(-1, 4)
    lengths = views[chunk.offset : chunk.offset + len(chunk), 0]
    return int(lengths.clip(min=0).sum(dtype=np.int64))


def _check_size(size: int, where: str, file_size: int) -> None:
    if size > _limit(file_size):
        raise InputError(f"{where} holds {size:,} bytes; {_accepted(file_size)}")


def _not_plain(kind: "pa.DataType") -> "pa.DataType | None":
    """The first type within `kind` that is not plain; None if all are."""
    import pyarrow as pa

    t = pa.types
    if t.is_list(kind) or t.is_large_list(kind) or t.is_fixed_size_list(kind):
        return _not_plain(kind.value_type)
    if t.is_struct(kind):
        fields = [kind.field(i) for i in range(kind.num_fields)]
        return next((odd for f in fields if (odd := _not_plain(f.type)) is not None), None)
    if t.is_interval(kind):
        return kind
    decimals = (t.is_decimal128, t.is_decimal256)  # `datasets` has no smaller ones
    plain = (t.is_null, t.is_boolean, t.is_integer, t.is_floating, *decimals, t.is_temporal)
    texts = (t.is_string, t.is_large_string, t.is_binary, t.is_large_binary)
    return None if any(is_kind(kind) for is_kind in (*plain, *texts)) else kind


def _without_metadata(kind: "pa.DataType") -> "pa.DataType":
    """The same type without metadata on its inner fields."""
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
    """The description of each column of class labels, in the form that `with_class_names` needs."""
    described = _described(table.schema.metadata)
    return {name: entry for name, entry in described.items() if "ClassLabel" in json.dumps(entry)}


def _described(metadata: Mapping[bytes, bytes] | None) -> Any:
    """The description of the columns that `datasets` stores as JSON; empty if it is malformed."""
    text = (metadata or {}).get(FEATURES, b"")
    if not text or len(text) > MAX_METADATA:
        return {}
    try:
        return json.loads(text)["info"]["features"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return {}


def with_class_names(table: "pa.Table", described: object) -> "pa.Table":
    """Add the class names in `described` to the table's metadata."""
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


def _named(feature: object, described: object) -> object:
    """The feature, or class labels if it holds integers for which `described` has names."""
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
