"""Cache: named arrays on the disk, found again by a key and memory-mapped."""

import hashlib
import io
import json
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from trainer.checkpoint import files
from trainer.errors import EnvironmentFault

log = logging.getLogger(__name__)


def load(folder: Path) -> dict[str, np.ndarray] | None:
    """The entry in `folder`; None where there is none, or not every byte of it is as written."""
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        arrays = {}
        for name, digest in index["sha256"].items():
            file = folder / f"{name}.npy"
            if files.sha256_of(file) != digest:
                return None
            # A view of the plain class: every gather from a np.memmap would make another one.
            arrays[name] = np.asarray(np.load(file, mmap_mode="r", allow_pickle=False))
        return arrays
    except (OSError, EnvironmentFault, ValueError, KeyError, TypeError, AttributeError):
        return None


def store(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Keep an entry, all or nothing; where another process was faster, the other's stays.

    A cache that cannot be written costs time, never the run: it is only warned of.
    """
    staged = files.unused(folder.with_name(f".tmp-{folder.name}-{os.getpid()}"))
    try:
        if load(folder) is None and folder.exists():
            files.remove_folder(folder)
        files.make_folder(staged)
        _write(staged, arrays)
        files.rename(staged, folder)
    except EnvironmentFault as fault:
        if load(folder) is None:
            log.warning("the token cache is not used: %s", fault)
    finally:
        if staged.exists():
            with suppress(EnvironmentFault):
                files.remove_folder(staged)


def _write(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    digests = {}
    for name, array in arrays.items():
        content = io.BytesIO()
        np.save(content, array, allow_pickle=False)
        files.write_bytes(folder / f"{name}.npy", content.getvalue())
        digests[name] = hashlib.sha256(content.getbuffer()).hexdigest()
    files.write_json(folder / "index.json", {"sha256": digests})
    files.fsync_folder(folder)
