"""Needed files: checks that the files of a data set exist, without reading them."""

from collections.abc import Mapping
from pathlib import Path

from trainer.data.mixed_rows import source_key
from trainer.data.mixture import Mixture
from trainer.data.plain_text import PlainText
from trainer.data.rows import Files
from trainer.data.sources import check_exists, is_hub_id
from trainer.errors import InputError

READ_HERE = (Files.load, PlainText.load)
"""The methods that read files as described here; a subclass may read its fields in another way."""
SETS = ("train", "validation", "test")


def check_data_files(dataset: object) -> None:
    """Raise InputError if a local file, folder or glob of a data set does not exist.

    Data sets on the hub and in object stores are not looked up.
    """
    if isinstance(dataset, Mixture):
        for name, source in dataset.mixture.items():
            try:
                check_data_files(source.dataset)
            except InputError as error:
                raise InputError(f"{source_key(name)}: {error}") from error
    elif getattr(type(dataset), "load", None) in READ_HERE:
        whole = getattr(dataset, "path", None)
        if whole is None:
            for key in SETS:
                check_entries(getattr(dataset, key, None), f"dataset.{key}")
        elif not is_hub_id(whole) or Path(whole).exists():
            check_entries(whole, "dataset.path")


def check_entries(given: object, where: str) -> None:
    """Raise InputError if one of these local paths does not exist.

    `given` is a path, a list of paths, named sets of them, or None.
    """
    if isinstance(given, str):
        check_exists(given, where)
    elif isinstance(given, Mapping):
        for name, each in given.items():
            check_entries(each, f"{where}.{name}")
    elif isinstance(given, list | tuple):
        for each in given:
            check_entries(each, where)
