"""Pruning: removes entries of the token cache to limit their age and their total size."""

import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from trainer.checkpoint import files
from trainer.data import cache, cache_locks
from trainer.errors import EnvironmentFault

ENTRY = re.compile(r"[0-9a-f]{64}")
STAGED_SECONDS = 24 * 3600
"""The age, in seconds, from which a folder left by a killed process is removed."""
DAY = 24 * 3600


@dataclass(frozen=True)
class Entry:
    """An entry of the cache."""

    folder: Path
    size: int
    """The size in bytes"""
    used: float
    """The time of the last use, in seconds since 1970"""


@dataclass(frozen=True)
class Pruned:
    """What was removed from a cache, or would be."""

    removed: list[Entry]
    kept: list[Entry]
    in_use: int
    """The number of kept entries that would be removed if no process used them"""
    left_over: int
    """The number of removed folders that were left by processes killed while writing"""


def entries(cache_dir: Path) -> list[Entry]:
    """The entries of a cache that this user may read, the least recently used first."""
    folders = cache_dir.iterdir() if cache_dir.is_dir() else ()
    found = [_entry(folder) for folder in folders if ENTRY.fullmatch(folder.name)]
    return sorted(filter(None, found), key=lambda entry: entry.used)


def _entry(folder: Path) -> Entry | None:
    """The entry in a folder; None if it cannot be read or was removed in the meantime."""
    try:
        if folder.is_symlink() or not folder.is_dir():
            return None
        sizes = [file.stat().st_size for file in folder.iterdir() if file.is_file()]
        index = folder / cache.INDEX
        used = (index if index.is_file() else folder).stat().st_mtime
    except OSError:
        return None
    return Entry(folder, sum(sizes), used)


def prune(cache_dir: Path, days: float | None, max_bytes: float | None, dry_run: bool) -> Pruned:
    """Remove entries by age and size, the least recently used first. Entries in use are kept."""
    all_entries = entries(cache_dir)
    remaining = sum(entry.size for entry in all_entries)
    oldest = 0.0 if days is None else time.time() - days * DAY
    removed, kept, in_use = [], [], 0
    for entry in all_entries:
        too_much = max_bytes is not None and remaining > max_bytes
        if not (entry.used < oldest or too_much):
            kept.append(entry)
        elif dry_run or _removed(entry):
            removed.append(entry)
            remaining -= entry.size
        elif entry.folder.exists():
            kept.append(entry)
            in_use += 1
        else:  # another process has removed it in the meantime
            remaining -= entry.size
    return Pruned(removed, kept, in_use, 0 if dry_run else _remove_left_over(cache_dir))


def _removed(entry: Entry) -> bool:
    """Remove an entry. Returns false if a process uses it, or has already removed it."""
    with cache_locks.removing(entry.folder) as free:
        if not free or not entry.folder.exists():
            return False
        try:
            files.remove_folder(entry.folder)
        except EnvironmentFault:  # another process may be removing the same folder
            if entry.folder.exists():
                raise
    return True


def _remove_left_over(cache_dir: Path) -> int:
    """Remove folders left by killed processes. Returns their number."""
    before = time.time() - STAGED_SECONDS
    number = 0
    for folder in cache_dir.iterdir() if cache_dir.is_dir() else ():
        if not folder.name.startswith(".") or not ENTRY.search(folder.name):
            continue
        with suppress(OSError, EnvironmentFault):  # another process may remove it at the same time
            if folder.is_dir() and not folder.is_symlink() and folder.stat().st_mtime < before:
                files.remove_folder(folder)
                number += 1
    return number
