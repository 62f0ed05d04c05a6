"""In-memory rows: converts any data set passed by a Python caller to a table."""

from collections.abc import Iterator, KeysView, Mapping, Sequence, ValuesView
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.data.arrow_files import check_unique, plain_table
from trainer.data.row_locations import copy_locations
from trainer.data.row_seeds import preserve_rng_state, seed_rng_for_row
from trainer.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

ACCEPTED = (
    "accepted: a Dataset, a list of dicts, a dict of lists, a DataFrame, a table of Arrow, a "
    "stream of dicts, or paths of files"
)


def as_table(rows: Any, where: str = "dataset") -> "Dataset":
    """The rows as a table. `trainer.data.column_types` decides the types of its columns.

    Rows are read by index and may hold tensors; a stream is read to its end. Raises InputError for
    rows without named columns; `where` is the name of the data set in the error.
    """
    if paths := _paths(rows):
        return _read_files(paths, where)
    if _is_arrow_table(rows):
        return _table_of_arrow(rows, where)
    check_kind(rows, where)
    if is_stream(rows):
        rows = list(rows)
    if isinstance(rows, _tensor_dataset()):
        raise InputError(f"{where}: a TensorDataset's columns have no names; {ACCEPTED}")
    if hasattr(rows, "column_names"):
        return copy_locations(rows.with_format(None), rows)
    if is_data_frame(rows):
        return _table(_columns_of_frame(rows, where), where)
    if isinstance(rows, Mapping):
        columns = {str(name): _plain(column) for name, column in rows.items()}
        _check_columns(columns, where)
        return _table(columns, where)
    found = all_rows(rows)
    for number, row in enumerate(found):
        if not isinstance(row, Mapping):
            raise InputError(f"{where} row {number}: a {type(row).__name__}; accepted: a dict")
    names = dict.fromkeys(name for row in found for name in row)
    return _table({str(name): [_plain(row.get(name)) for row in found] for name in names}, where)


def _read_files(paths: list[str], where: str) -> "Dataset":
    """The rows of files. If the paths are texts instead, the error says how to pass texts."""
    from trainer.data.sources import read_files

    try:
        return read_files(paths, where)
    except InputError as error:
        if "does not exist" not in str(error):
            raise
        text = f"{error}; a text is a row, such as {{'text': {paths[0][:40]!r}}}"
        raise InputError(text) from None


def _is_arrow_table(rows: object) -> bool:
    import pyarrow as pa

    return isinstance(rows, (pa.Table, pa.RecordBatch))


def _table_of_arrow(rows: "pa.Table | pa.RecordBatch", where: str) -> "Dataset":
    """The rows of an Arrow table, with the types they would have if read from a parquet file."""
    import pyarrow as pa

    from trainer.data.exact_json import dataset_of

    table = rows if isinstance(rows, pa.Table) else pa.Table.from_batches([rows])
    try:
        return dataset_of(plain_table(table, table.nbytes, where))
    except pa.ArrowException as error:
        raise InputError(f"{where}: {str(error).splitlines()[0]}") from None


def all_rows(dataset: Any) -> list[Any]:
    """The rows of a data set, read by index up to its length, since iterating might never end.

    The random generators are seeded for each row, so that random rows depend only on their index.
    """
    if isinstance(dataset, (list, tuple)):
        return list(dataset)
    rows = []
    with preserve_rng_state():
        for number in range(len(dataset)):
            seed_rng_for_row(0, 0, number)
            rows.append(dataset[number])
    return rows


def named_sets(given: object) -> dict[str, Any]:
    """Name -> evaluation set. A single set, which may be a dict of columns, is named ""."""
    if isinstance(given, Mapping) and not _is_columns(given):
        return {name: rows for name, rows in given.items() if rows is not None}
    return {} if given is None else {"": given}


def set_key(name: str) -> str:
    """The name of an evaluation set in messages."""
    return f"dataset.validation.{name}".rstrip(".")


def check_kind(rows: object, where: str) -> None:
    """Raise InputError for several data sets at once, for batches, and for objects without rows."""
    from datasets import DatasetDict, IterableDatasetDict
    from torch.utils.data import DataLoader

    name = type(rows).__name__
    if isinstance(rows, (DatasetDict, IterableDatasetDict)):
        raise InputError(f"{where}: a {name}; accepted: one of its sets: {', '.join(rows)}")
    if isinstance(rows, DataLoader):
        raise InputError(f"{where}: a DataLoader, which makes batches; accepted: its dataset")
    by_index = hasattr(rows, "__len__") and hasattr(rows, "__getitem__")
    if isinstance(rows, (str, bytes)) or not (by_index or is_stream(rows)):
        raise InputError(f"{where}: {name} holds no rows; {ACCEPTED}")


def is_stream(rows: object) -> bool:
    """Whether rows can only be read in order, as with iterators and iterable data sets."""
    import torch
    from datasets import IterableDataset

    if isinstance(rows, (IterableDataset, torch.utils.data.IterableDataset, Iterator)):
        return True
    return hasattr(rows, "__iter__") and not hasattr(rows, "__getitem__")


def _tensor_dataset() -> type:
    import torch

    return torch.utils.data.TensorDataset


def is_data_frame(rows: object) -> bool:
    """Whether rows are a data frame of pandas or polars, without importing either."""
    return type(rows).__name__ == "DataFrame" and hasattr(rows, "columns")


def _is_columns(given: Mapping[str, Any]) -> bool:
    """Whether a mapping holds columns of values rather than data sets."""
    return bool(given) and all(
        isinstance(column, (list, tuple))
        and not any(isinstance(e, Mapping) for e in column[:1])
        or type(column).__name__ in ("Tensor", "ndarray", "Series", "Column")
        for column in given.values()
    )


def _check_columns(columns: Mapping[str, Any], where: str) -> None:
    """Raise InputError for an entry that is no column, such as a text if the mapping is a row."""
    for name, column in columns.items():
        by_index = hasattr(column, "__len__") and hasattr(column, "__getitem__")
        if isinstance(column, (str, bytes, Mapping)) or not by_index:
            found = f"column '{name:.40}' is {column!r:.60}"
            raise InputError(f"{where}: {found}; accepted: a list with a value for each row")


def _table(columns: Mapping[str, Sequence[Any]], where: str) -> "Dataset":
    import pyarrow as pa

    from trainer.data.arrow_files import check_names
    from trainer.data.exact_json import dataset_of

    check_names(columns, where)
    sizes = {name: len(column) for name, column in columns.items()}
    if len(set(sizes.values())) > 1:
        raise InputError(f"{where}: columns of different lengths, {sizes}; accepted: equal ones")
    arrays = {}
    for name, column in columns.items():
        try:
            arrays[name] = _array(column)
        except (pa.ArrowException, ValueError, TypeError) as error:
            found = str(error).splitlines()[0]
            raise InputError(f"{where}: column '{name}': {found}") from None
    return dataset_of(pa.table(arrays))


def _array(column: Sequence[Any]) -> "pa.Array":
    """A typed column. Arrow infers the type of values that JSON cannot represent, such as dates."""
    import pyarrow as pa

    from trainer.data.column_types import of_values

    try:
        return of_values(column)
    except TypeError:
        return pa.array(column)


def _columns_of_frame(frame: Any, where: str) -> dict[str, list[Any]]:
    columns = {}
    check_unique(map(str, frame.columns), where)
    for name in frame.columns:
        series = frame[name]
        missing = series.isna() if hasattr(series, "isna") else series.is_null()
        values = zip(series.to_list(), missing.to_list(), strict=True)
        columns[str(name)] = [None if is_null else _plain(value) for value, is_null in values]
    return columns


def _plain(value: object) -> Any:
    """The value with its tensors and arrays converted to lists and numbers."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, KeysView, ValuesView)):
        return [_plain(entry) for entry in value]
    return value


def _paths(rows: object) -> list[str]:
    """The paths, if the rows are given as paths of files; otherwise an empty list."""
    if isinstance(rows, (str, Path)):
        return [str(rows)]
    if not isinstance(rows, (list, tuple)) or not all(isinstance(e, (str, Path)) for e in rows):
        return []
    return [str(entry) for entry in rows]
