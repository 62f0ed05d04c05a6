"""Given rows: what a Python caller hands over as a data set, made a table, or refused in a line."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.data.drawing import generators_kept, seed_generators
from trainer.data.places import inherit
from trainer.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

ACCEPTED = "accepted: a Dataset, a list of dicts, a dict of lists, a DataFrame, or paths of files"


def as_table(rows: Any, where: str = "dataset") -> "Dataset":
    """Rows as a table: as they are, or made of them by the rule of trainer/data/cells.py.

    Rows are taken by their number, from 0 to the length, and may hold tensors. Raises InputError,
    naming the set by `where`, for what is no finite set of rows with named columns.
    """
    if paths := _paths(rows):
        return _read(paths, where)
    check_kind(rows, where)
    if hasattr(rows, "column_names"):
        return inherit(rows.with_format(None), rows)
    if is_data_frame(rows):
        return _table(_columns_of_frame(rows), where)
    if isinstance(rows, Mapping):
        return _table({str(name): _plain(column) for name, column in rows.items()}, where)
    found = all_rows(rows)
    for number, row in enumerate(found):
        if not isinstance(row, Mapping):
            raise InputError(f"{where} row {number}: a {type(row).__name__}; accepted: a dict")
    names = dict.fromkeys(name for row in found for name in row)
    return _table({str(name): [_plain(row.get(name)) for row in found] for name in names}, where)


def all_rows(dataset: Any) -> list[Any]:
    """The rows of a data set, by number up to its length: iterating one may never end.

    Rows that are drawn at random are a function of their number.
    """
    if isinstance(dataset, (list, tuple)):
        return list(dataset)
    rows = []
    with generators_kept():
        for number in range(len(dataset)):
            seed_generators(0, 0, number)
            rows.append(dataset[number])
    return rows


def named_sets(given: Any) -> dict[str, Any]:
    """Evaluation sets by name; a single one, a dict of lists among them, is called ""."""
    if isinstance(given, Mapping) and not _is_columns(given):
        return {name: rows for name, rows in given.items() if rows is not None}
    return {} if given is None else {"": given}


def set_key(name: str) -> str:
    """The key by which messages name an evaluation set."""
    return f"dataset.validation.{name}".rstrip(".")


def check_kind(rows: Any, where: str) -> None:
    """Raise InputError for streams, for several sets at once and for rows without names."""
    import torch
    from datasets import DatasetDict, IterableDataset

    name = type(rows).__name__
    if isinstance(rows, DatasetDict):
        raise InputError(f"{where}: a DatasetDict; accepted: one of its sets: {', '.join(rows)}")
    streams = (IterableDataset, torch.utils.data.IterableDataset, Iterator)
    if isinstance(rows, streams) or not (hasattr(rows, "__len__") and hasattr(rows, "__getitem__")):
        raise InputError(f"{where}: {name} has no length, or no rows by number; {ACCEPTED}")
    if isinstance(rows, torch.utils.data.TensorDataset):
        raise InputError(f"{where}: a TensorDataset's columns have no names; {ACCEPTED}")


def is_data_frame(rows: Any) -> bool:
    """Whether rows are a data frame of pandas or polars, neither of which is imported here."""
    return type(rows).__name__ == "DataFrame" and hasattr(rows, "columns")


def _is_columns(given: Mapping[str, Any]) -> bool:
    """Whether a mapping holds columns of values, and no sets of rows."""
    return bool(given) and all(
        isinstance(column, (list, tuple))
        and not any(isinstance(e, Mapping) for e in column[:1])
        or type(column).__name__ in ("Tensor", "ndarray", "Series")
        for column in given.values()
    )


def _table(columns: Mapping[str, Sequence[Any]], where: str) -> "Dataset":
    import pyarrow as pa

    from trainer.data.exact_json import dataset_of
    from trainer.data.foreign_tables import check_names

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
    """Values as cells.py says; those that JSON has no word for, such as dates, as Arrow does."""
    import pyarrow as pa

    from trainer.data.cells import of_values

    try:
        return of_values(column)
    except TypeError:
        return pa.array(column)


def _columns_of_frame(frame: Any) -> dict[str, list[Any]]:
    columns = {}
    for name in frame.columns:
        series = frame[name]
        missing = series.isna() if hasattr(series, "isna") else series.is_null()
        values = zip(series.to_list(), missing.to_list(), strict=True)
        columns[str(name)] = [None if gone else _plain(value) for value, gone in values]
    return columns


def _plain(value: Any) -> Any:
    """A value without tensors and arrays."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value


def _paths(rows: Any) -> list[str]:
    """The paths of files that are given as rows."""
    if isinstance(rows, (str, Path)):
        return [str(rows)]
    if not isinstance(rows, (list, tuple)) or not all(isinstance(e, (str, Path)) for e in rows):
        return []
    return [str(entry) for entry in rows]


def _read(paths: Sequence[str], where: str) -> "Dataset":
    from trainer.data.sources import files_at, read_all

    return read_all([file for path in paths for file in files_at(path, where)], where)
