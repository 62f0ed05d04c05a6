"""Saved data sets: reads folders that `save_to_disk` wrote, and no files outside of them.

`datasets.load_from_disk` opens any path that state.json names and applies the metadata it finds.
This module reads only the Arrow files of the folder.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.data.arrow_files import read_arrow
from trainer.errors import InputError
from trainer.foreign.files import check_files

if TYPE_CHECKING:
    from datasets import Dataset

STATE, DICT = "state.json", "dataset_dict.json"
MAX_JSON = 16 << 20


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote a folder."""
    return any((folder / mark).is_file() for mark in (DICT, STATE))


def read_saved(folder: Path, where: str) -> "dict[str, Dataset]":
    """The splits of a folder written by `save_to_disk`; a single data set is named train.

    Raises InputError if the folder is incomplete, or names files outside of itself.
    """
    if not (folder / DICT).is_file():
        return {"train": _read_one(folder, folder, where)}
    names = _json(folder / DICT, folder, where).get("splits")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or not names:
        raise InputError(f"{where}: {folder / DICT}: names no splits; accepted: a list of names")
    for name in names:
        _check_name(name, folder / DICT, where)
    return {name: _read_one(folder / name, folder, where) for name in names}


def _read_one(folder: Path, top: Path, where: str) -> "Dataset":
    import pyarrow as pa

    from trainer.data.exact_json import dataset_of

    entries = _json(folder / STATE, top, where).get("_data_files")
    listed = entries if isinstance(entries, list) else []
    names = [entry.get("filename") if isinstance(entry, dict) else None for entry in listed]
    for name in names:
        _check_name(name, folder / STATE, where)
    if not names:
        raise InputError(f"{where}: {folder / STATE}: names no files; accepted: _data_files")
    paths = [folder / str(name) for name in names]
    check_files(paths, top, where)
    tables = [read_arrow(path, f"{where}: {path}") for path in paths]
    try:
        return dataset_of(pa.concat_tables(tables))
    except (pa.ArrowException, ValueError, TypeError) as error:
        found = str(error).splitlines()[0]
        raise InputError(f"{where}: {folder}: files of different columns ({found:.200})") from None


def _check_name(name: Any, file: Path, where: str) -> None:
    bare = isinstance(name, str) and name not in ("", ".", "..")
    if not bare or any(mark in name for mark in "/\\\0"):
        raise InputError(
            f"{where}: {file}: names {name!r:.80}; accepted: a file in the same folder"
        )


def _json(file: Path, top: Path, where: str) -> dict[str, Any]:
    check_files([file], top, where)
    if file.stat().st_size > MAX_JSON:
        raise InputError(f"{where}: {file}: too large; accepted: at most {MAX_JSON:,} bytes")
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{where}: {file}: not JSON ({error})") from None
    if not isinstance(found, dict):
        raise InputError(f"{where}: {file}: found {type(found).__name__}; accepted: a JSON object")
    return found
