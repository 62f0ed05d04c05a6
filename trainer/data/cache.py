"""Cache: stores entries (named arrays) on disk in folders named by a digest, and maps them."""

import hashlib
import io
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from trainer.checkpoint import files
from trainer.data import cache_locks
from trainer.data.array_files import array_pieces, mapped
from trainer.errors import EnvironmentFault

log = logging.getLogger("trainer")

INDEX = "index.json"
Check = Callable[[Mapping[str, np.ndarray]], str | None]
"""Returns what is wrong with the arrays of an entry, or None if they are valid."""
FAULTS = (OSError, EnvironmentFault, ValueError, LookupError, TypeError, AttributeError) + (
    RecursionError,
    MemoryError,
    OverflowError,
)
"""The exceptions that reading a damaged entry may raise."""


def load(folder: Path, check: Check | None = None) -> dict[str, np.ndarray] | None:
    """The arrays of the entry in `folder`; None if it is missing or its digests do not match.

    An entry is rejected with a warning, and None returned, if another user owns it, if everybody
    may write to it, or if `check` finds an error.
    """
    arrays, fault = _read(folder, check)
    if fault is not None:
        log.warning("%s: this entry of the token cache is not used: %s", folder, fault)
    if arrays is not None:
        cache_locks.use(folder)
        files.mark_used(folder / INDEX)
    return arrays


def store(folder: Path, arrays: Mapping[str, np.ndarray], check: Check | None = None) -> None:
    """Write an entry atomically; an entry that another process wrote first is kept.

    If the cache cannot be written, a warning is logged.
    """
    staged = files.staged_name(folder)
    try:
        if _read(folder, check)[0] is None and os.path.lexists(folder):
            files.remove_folder(folder)
        files.make_folder(staged, private=True, fresh=True)
        _write(staged, folder.name, arrays)
        files.rename(staged, folder)
        files.fsync_folder(folder.parent)
    except EnvironmentFault as fault:
        if _read(folder, check)[0] is None:
            log.warning("the token cache is not used: %s", fault)
    finally:
        if staged.exists():
            with suppress(EnvironmentFault):
                files.remove_folder(staged)


def _read(folder: Path, check: Check | None) -> tuple[dict[str, np.ndarray] | None, str | None]:
    """(arrays, None) for a valid entry, and (None, reason) for one that cannot be trusted.

    (None, None) if the entry is missing or damaged.
    """
    try:
        descriptor = files.open_private_folder(folder)
    except PermissionError as error:
        return None, error.strerror
    except OSError:
        return None, None
    try:
        with _open_in(descriptor, INDEX) as file:
            index = json.load(file)
        if index["of"] != folder.name:
            return None, f"it was written for the digest {index['of']!r:.80}"
        arrays = {
            name: _array(descriptor, name, digest) for name, digest in index["sha256"].items()
        }
    except FAULTS:
        return None, None
    finally:
        os.close(descriptor)
    try:
        fault = check(arrays) if check is not None else None
    except FAULTS as error:
        fault = f"{type(error).__name__}: {error}"
    return (arrays, None) if fault is None else (None, fault)


def _array(folder: int, name: str, digest: str) -> np.ndarray:
    """Check the digest of an array's file and map the same open file into memory."""
    if not re.fullmatch(r"[A-Za-z_][\w.]*", name):
        raise ValueError(f"{name!r} is not the name of an array")
    with _open_in(folder, f"{name}.npy") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != digest:
            raise ValueError(f"{name} is not what was written")
        file.seek(0)
        return mapped(file)


def _open_in(folder: int, name: str) -> io.BufferedReader:
    return os.fdopen(files.open_regular(name, os.O_RDONLY, folder=folder), "rb")


def _digested(pieces: Iterable[bytes], digest: "hashlib._Hash") -> Iterator[bytes]:
    for piece in pieces:
        digest.update(piece)
        yield piece


def _write(folder: Path, name: str, arrays: Mapping[str, np.ndarray]) -> None:
    digests = {}
    for array_name, array in arrays.items():
        digest = hashlib.sha256()
        pieces = array_pieces([array], array.shape, array.dtype)
        files.write_pieces(folder / f"{array_name}.npy", _digested(pieces, digest))
        digests[array_name] = digest.hexdigest()
    files.write_json(folder / INDEX, {"of": name, "sha256": digests})
    files.fsync_folder(folder)
