"""Cache: named arrays on the disk, found again by a key and memory-mapped."""

import hashlib
import io
import json
import logging
import os
import re
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from trainer.checkpoint import files
from trainer.errors import EnvironmentFault

log = logging.getLogger(__name__)

INDEX = "index.json"
Check = Callable[[Mapping[str, np.ndarray]], str | None]
"""What is wrong with the arrays of an entry, in a few words, or None."""
FAULTS = (OSError, EnvironmentFault, ValueError, LookupError, TypeError, AttributeError) + (
    RecursionError,
    MemoryError,
    OverflowError,
)
"""What a damaged entry raises while it is read."""


def load(folder: Path, check: Check | None = None) -> dict[str, np.ndarray] | None:
    """The entry in `folder`; None where there is none, or not every byte of it is as written.

    An entry that another user has made, or that everybody may change, is not used, nor one in
    which `check` finds a fault: both are warned of.
    """
    arrays, fault = _read(folder, check)
    if fault is not None:
        log.warning("%s: this entry of the token cache is not used: %s", folder, fault)
    return arrays


def store(folder: Path, arrays: Mapping[str, np.ndarray], check: Check | None = None) -> None:
    """Keep an entry, all or nothing; where another process was faster, the other's stays.

    A cache that cannot be written costs time, never the run: it is only warned of.
    """
    staged = files.unused(folder.with_name(f".tmp-{folder.name}-{os.getpid()}"))
    try:
        if _read(folder, check)[0] is None and os.path.lexists(folder):
            files.remove_folder(folder)
        files.make_folder(staged, private=True)
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
    """The arrays, or None and why they are not to be trusted, if they are there at all."""
    try:
        status = folder.lstat()
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        if index["of"] != folder.name:
            return None, f"it was made as {index['of']!r:.80}"
        if not _is_ours(status):
            return None, "another user may have written it"
        arrays = {name: _array(folder, name, digest) for name, digest in index["sha256"].items()}
    except FAULTS:
        return None, None
    fault = check(arrays) if check is not None else None
    return (arrays, None) if fault is None else (None, fault)


def _array(folder: Path, name: str, digest: str) -> np.ndarray:
    if not re.fullmatch(r"[A-Za-z_][\w.]*", name):
        raise ValueError(f"{name!r} is no name of an array")
    file = folder / f"{name}.npy"
    if file.is_symlink() or not file.is_file() or files.sha256_of(file) != digest:
        raise ValueError(f"{file} is not what was written")
    # A view of the plain class: every gather from a np.memmap would make another one.
    return np.asarray(np.load(file, mmap_mode="r", allow_pickle=False))


def _is_ours(status: os.stat_result) -> bool:
    """Whether this user made a folder, and nobody else may change what is in it."""
    everybody = stat.S_IWOTH
    return stat.S_ISDIR(status.st_mode) and (
        status.st_uid == os.geteuid() and not status.st_mode & everybody
    )


def _write(folder: Path, name: str, arrays: Mapping[str, np.ndarray]) -> None:
    digests = {}
    for array_name, array in arrays.items():
        content = io.BytesIO()
        np.save(content, array, allow_pickle=False)
        files.write_bytes(folder / f"{array_name}.npy", content.getvalue())
        digests[array_name] = hashlib.sha256(content.getbuffer()).hexdigest()
    files.write_json(folder / INDEX, {"of": name, "sha256": digests})
    files.fsync_folder(folder)
