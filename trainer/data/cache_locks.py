"""Cache locks: one process at a time makes a cache entry, and no process removes one in use.

The locks are file locks of the operating system, so they end with the process, and they work
between machines if the network file system supports them. Without locks, several processes may make
the same entry. That is safe, since entries are published by renaming.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trainer.checkpoint import files
from trainer.errors import EnvironmentFault
from trainer.terminal import activity

FOLDER = ".locks"
"""The folder in a cache that holds the lock files of its entries."""
MAKING, USED = ".making", ".used"
"""The endings of an entry's lock files."""
MAX_WAIT, RETRY_INTERVAL = 600.0, 0.2
"""Seconds to wait for another process that makes an entry, and between two attempts to lock it."""
_in_use: dict[Path, int] = {}
"""Lock file -> the descriptor that holds it until this process ends"""


@contextmanager
def making(entry: Path) -> Iterator[None]:
    """A context in which only this process makes the entry; waits for other processes first.

    After MAX_WAIT seconds the wait ends, since the other process may be suspended.
    """
    descriptor = _opened(entry, MAKING)
    try:
        ends = time.monotonic() + MAX_WAIT
        while descriptor is not None and not _taken(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB):
            if time.monotonic() > ends:
                break
            activity.doing("waiting for another process that tokenizes the same rows")
            time.sleep(RETRY_INTERVAL)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def use(entry: Path) -> None:
    """Keep the entry from being removed until this process ends."""
    path = _path(entry, USED)
    if path in _in_use:
        return
    descriptor = _opened(entry, USED)
    if descriptor is not None and _taken(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB):
        _in_use[path] = descriptor
    elif descriptor is not None:
        os.close(descriptor)


@contextmanager
def removing(entry: Path) -> Iterator[bool]:
    """A context for removing an entry; yields whether it may be removed.

    It may be removed if no process, including this one, makes or uses it.
    """
    locks = [_opened(entry, ending) for ending in (MAKING, USED)]
    held = [each for each in locks if each is not None]
    try:
        free = all(_taken(each, fcntl.LOCK_EX | fcntl.LOCK_NB) for each in held)
        yield free
        if free:
            for ending in (MAKING, USED):
                path = _path(entry, ending)
                with suppress(EnvironmentFault):  # a leftover lock file does no harm
                    if path.exists():
                        files.remove_file(path)
    finally:
        for each in held:
            os.close(each)


def _path(entry: Path, ending: str) -> Path:
    return entry.parent / FOLDER / (entry.name + ending)


def _opened(entry: Path, ending: str) -> int | None:
    """A descriptor of an entry's lock file; None if it cannot be created."""
    path = _path(entry, ending)
    try:
        files.make_folder(path.parent, private=True)
        return files.open_regular(path, os.O_RDWR | os.O_CREAT, 0o600)
    except (OSError, EnvironmentFault):  # the cache is not writable
        return None


def _taken(descriptor: int, operation: int) -> bool:
    """Whether a lock was acquired; true if the file system does not support locks."""
    try:
        fcntl.flock(descriptor, operation)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def release_all() -> None:
    """Release all entries that this process uses; another process may then remove them."""
    while _in_use:
        os.close(_in_use.popitem()[1])
