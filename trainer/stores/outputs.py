"""Outputs: uploads the file or folder that a job has written."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.checkpoint import files
from trainer.errors import InputError
from trainer.local_copies import stage_folder
from trainer.stores.published import PublishedFolders
from trainer.stores.store import Store
from trainer.stores.url import check_url, is_in_store, is_url, plain_path


@contextmanager
def written(place: str, where: str) -> Iterator[str]:
    """Context manager that yields a local path and uploads the file or folder written to it.

    If `place` is a local path, which may begin with ~, nothing is uploaded. In the store, an
    existing file is replaced, but an existing folder is refused. The manifest of a folder is
    uploaded last. Raises InputError, whose message begins with `where`, for a URL that cannot be
    written to.
    """
    if not is_in_store(place):
        if is_url(place):
            check_url(place, where)
        yield os.path.expanduser(plain_path(place))
        return
    url = place.rstrip("/")
    check_url(url, where, writes=True)
    above, _, name = url.rpartition("/")
    if above.endswith("/"):
        raise InputError(f"{where}: found '{place}'; accepted: a name below a bucket or folder")
    store = Store(above, where, writes=True)
    if any(each != name for each in store.listing(name)):
        raise InputError(f"{where}: {place} exists; accepted: a folder that does not exist")
    folder = stage_folder() / "outputs" / secrets.token_hex(8)
    files.make_folder(folder, private=True)
    try:
        yield str(folder / name)
        if (folder / name).is_dir():
            PublishedFolders(store).upload(folder / name, lambda: None)
        else:
            store.upload(name, folder / name)
    finally:
        files.remove_folder(folder)


def shown_output(place: str, path: Path) -> str:
    """The location of an output for messages: its URL, or its local path."""
    return place if is_in_store(place) else str(path)
