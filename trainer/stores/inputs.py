"""Inputs: copies data and models from a store to this machine before they are read."""

import fcntl
import fnmatch
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from trainer.checkpoint import files
from trainer.checkpoint.verify import MANIFEST, verify
from trainer.errors import EnvironmentFault, InputError
from trainer.local_copies import URL_FILE, stage_folder
from trainer.stores.store import AT_ONCE, Store, size_of
from trainer.stores.url import check_url, scheme_of
from trainer.terminal.activity import doing

logger = logging.getLogger("trainer")

RECORD = "staged.json"
"""The file next to a copy that holds the identities of the store's files at the time of copying."""
GLOB = "*?["
"""The characters that make a URL a glob."""
MIN_LOGGED_BYTES = 100_000_000
"""Copying more bytes than this is logged."""
Wanted = Callable[[str], bool]
"""A function that decides by a file's name whether to copy the file."""
Listing = Mapping[str, Mapping[str, str]]
"""Name of each file in a store -> its identity (`Store.listing`)."""


def staged(url: str, where: str, wanted: Wanted | None = None) -> Path:
    """Copy a file or folder from a store and return the local path; for a glob, a local glob.

    Only files that are `wanted` and that changed in the store since the last copy are copied. If
    the folder has a manifest, the copies are checked against it. Raises InputError, whose message
    begins with `where`, if there is nothing at the URL or if its files change during the copy, and
    EnvironmentFault if the store or the disk fails.
    """
    check_url(url, where)
    url = url.rstrip("/")
    root, glob = root_and_glob(url)
    store = Store(root, where)
    place = stage_folder() / "inputs" / hashlib.sha256(url.encode()).hexdigest()[:16]
    files.make_folder(place, private=True)
    _check_owner(place, where)
    with _locked(place):
        remember_url(place, root)
        listing = _listing(store, glob)
        target = place / "copy" / root.rpartition("/")[2]
        _copy(store, listing, target, wanted)
        if _listing(store, glob) != listing:
            raise InputError(f"{where}: {url}: changed while it was copied; run this again")
    return target / glob if glob else target


def remember_url(place: Path, url: str) -> None:
    """Record that `place` is the folder of a local copy of the file or folder at `url`."""
    file = place / URL_FILE
    if not file.exists():
        files.write_text(file, url, private=True)


def download(store: Store, name: str, identity: Mapping[str, str], target: Path) -> None:
    """Copy a file from a store into the folder `target`, or to `target` itself if `name` is ""."""
    path = target / name if name else target
    files.make_folder(path.parent)
    files.write_pieces(path, store.pieces(name, size_of(identity)))


def root_and_glob(url: str) -> tuple[str, str]:
    """Split a URL into the part before its glob pattern and the pattern, "" if there is none."""
    parts = url.split("/")
    at = next((i for i, part in enumerate(parts) if any(mark in part for mark in GLOB)), None)
    if at is None or not scheme_of(url).by_ranges:
        return url, ""
    return "/".join(parts[:at]), "/".join(parts[at:])


def _listing(store: Store, glob: str) -> dict[str, dict[str, str]]:
    found = store.listing()
    if glob:
        found = {name: each for name, each in found.items() if matches_glob(name, glob)}
    else:
        found = {name: each for name, each in found.items() if not is_hidden(name)}
    if not found:
        hint = f" that match {glob}" if glob else ""
        text = f"{store.where}: {store.url}: there are no files{hint}"
        raise InputError(f"{text}; accepted: a file, a folder or a glob that exists")
    if not glob and _unfinished(found):
        text = f"{store.where}: {store.url}: its upload was not finished (no {MANIFEST})"
        raise InputError(f"{text}; accepted: another checkpoint")
    return found


def matches_glob(name: str, glob: str) -> bool:
    """Whether a name matches a glob by the rules for local paths.

    ** stands for any number of folders. A hidden file or folder matches only if that part of the
    glob starts with a dot too.
    """
    return _parts_match(name.split("/"), glob.split("/"))


def _parts_match(parts: list[str], patterns: list[str]) -> bool:
    if not patterns:
        return not parts
    if patterns[0] == "**":
        hidden = next((n for n, part in enumerate(parts) if part.startswith(".")), len(parts))
        return any(_parts_match(parts[start:], patterns[1:]) for start in range(hidden + 1))
    if not parts or (is_hidden(parts[0]) and not is_hidden(patterns[0])):
        return False
    return fnmatch.fnmatchcase(parts[0], patterns[0]) and _parts_match(parts[1:], patterns[1:])


def is_hidden(name: str) -> bool:
    """Whether a part of a name starts with a dot."""
    return any(part.startswith(".") for part in name.split("/"))


def _unfinished(listing: Listing) -> bool:
    """Whether the files are those of a checkpoint whose upload did not finish."""
    return "state/trainer.json" in listing and MANIFEST not in listing


def _check_owner(place: Path, where: str) -> None:
    if not files.is_private(place):
        raise EnvironmentFault(
            f"{where}: {place}: another user may write to it; accepted: TEMPERING_STAGE=FOLDER"
        )


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    """Context manager that lets one process of this machine copy at a time; the others wait."""
    lock = place / ".lock"
    with files.operation("lock", lock):
        descriptor = files.open_regular(lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except BaseException:
            os.close(descriptor)
            raise
    try:
        yield
    finally:
        os.close(descriptor)


def _copy(store: Store, listing: Listing, target: Path, wanted: Wanted | None) -> None:
    """Copy the wanted files that changed in the store, and remove outdated local copies."""
    record, local = target.parent.parent / RECORD, _local_files(target)
    before = _read_record(record)
    current = {name for name in local & listing.keys() if before.get(name) == listing[name]}
    names = [name for name in listing if wanted is None or wanted(name)]
    stale = [name for name in names if name not in current]
    for name in sorted(local - current - set(stale)):
        files.remove_folder(target / name if name else target)
    if not stale:
        return
    doing(f"copying {store.url}")
    size = sum(max(size_of(listing[name]), 0) for name in stale)
    if size > MIN_LOGGED_BYTES:
        logger.info("%s: %s: copying %s", store.where, store.url, files.readable(size))
    kept = {name: listing[name] for name in current}
    files.write_json(record, kept)  # after a crash, half-copied files must not look up to date
    for path in (target / name if name else target for name in stale):
        if path.is_dir():  # the folder of files that were removed from the store
            files.remove_folder(path)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda name: download(store, name, listing[name], target), stale))
    if MANIFEST in names:
        verify(target, among=names)
    files.write_json(record, kept | {name: listing[name] for name in stale})


def _local_files(target: Path) -> set[str]:
    if target.is_file():
        return {""}
    return {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}


def _read_record(path: Path) -> dict[str, object]:
    try:
        found = json.loads(files.read_bytes(path))
    except (FileNotFoundError, ValueError, RecursionError, EnvironmentFault):
        return {}
    return found if isinstance(found, dict) else {}
