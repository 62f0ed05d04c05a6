"""Shards: finds the local or remote files of a stream, and detects changes to them."""

import functools
import glob
import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from trainer.data.compressed import COMPRESSIONS, ending_of
from trainer.data.file_lists import without_runs
from trainer.data.formats import ENDINGS
from trainer.data.sources import (
    is_data,
    is_data_name,
    refuse_other_splits,
    refuse_two_copies,
    root_of,
)
from trainer.data.streaming.stored_file import stored_file
from trainer.errors import EnvironmentFault, InputError, first_line
from trainer.foreign.files import check_files
from trainer.stores.inputs import matches_glob, root_and_glob
from trainer.stores.store import AT_ONCE, Store, size_of
from trainer.stores.url import is_in_store, joined, plain_path, scheme_of

FORMATS = {".parquet": "parquet", ".jsonl": "jsonl", ".json": "jsonl", ".tar": "tar", ".tgz": "tar"}
"""Ending of a shard's name, without a compression ending such as .gz -> its format."""
EDGE = 1 << 16
"""On resume, this many bytes at the start and at the end of a shard are compared."""
MOST_COMPARED = 64
"""The maximum number of shards whose first and last bytes are compared."""
ACCEPTED = "accepted with dataset.streaming=true: parquet, jsonl (also .gz .bz2 .xz .zst) and tar"


@dataclass(frozen=True)
class Shard:
    """One file of a stream."""

    url: str
    """A local path, or the URL of a file in an object store."""
    size: int
    """The size of the file in bytes."""
    identity: str
    """A string that changes if the file is replaced."""

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return self.url.rpartition("/")[2]

    @property
    def format(self) -> str:
        """parquet, jsonl or tar."""
        return format_of(self.url)

    def open(self) -> IO[bytes]:
        """Open the file for reading. Raises EnvironmentFault if it changed or cannot be read."""
        self.check()
        if is_in_store(self.url):
            return stored_file(*_store_and_name(self.url), self.size)
        try:
            return Path(self.url).open("rb")
        except OSError as error:
            raise self.fault(error) from None

    def check(self) -> None:
        """Raise EnvironmentFault if the file was removed or changed since the start of the run."""
        try:
            now = shard_at(self.url)
        except (OSError, EnvironmentFault, InputError) as error:
            raise self.fault(error) from None
        if now != self:
            sizes = f" ({self.size:,} bytes before, {now.size:,} now)" * (now.size != self.size)
            accepted = "accepted: shards that do not change"
            raise EnvironmentFault(
                f"dataset.train: {self.url}: changed during the run{sizes}; {accepted}"
            )

    def fault(self, error: Exception) -> EnvironmentFault:
        """A one-line error for a shard that cannot be read."""
        gone = isinstance(error, FileNotFoundError)
        found = "no longer exists" if gone else f"cannot be read ({first_line(error)})"
        return EnvironmentFault(f"dataset.train: {self.url}: {found}")


def shards_at(paths: str | Sequence[str], where: str) -> list[Shard]:
    """The shards of files, folders, globs or URLs, sorted by path within each entry.

    Files are selected and checked as in `trainer.data.sources`. Raises InputError for paths without
    shards, for a shard in two entries and for shards of several formats. Raises EnvironmentFault if
    an object store fails.
    """
    return shards_of(urls_at(paths, where), where)


def urls_at(paths: str | Sequence[str], where: str) -> list[str]:
    """The paths or URLs of the shards of `paths`. Raises the errors of `shards_at`."""
    entries = [paths] if isinstance(paths, str) else list(paths)
    urls = [url for entry in entries for url in _urls(plain_path(entry), where)]
    files = {url: url if is_in_store(url) else os.path.realpath(url) for url in urls}
    times = Counter(files[url] for url in urls)
    for url in urls:
        if times[files[url]] > 1:
            raise InputError(f"{where}: {url} is in the list twice; accepted: each file once")
    refuse_two_copies(urls, where)
    return urls


def shards_of(urls: Sequence[str], where: str) -> list[Shard]:
    """The shards at these paths or URLs. Raises the errors of `shards_at`."""
    formats = {_checked_format(url, where): url for url in urls}
    if len(formats) > 1:
        first, second = list(formats.values())[:2]
        raise InputError(f"{where}: {first} and {second} differ in format; accepted: one format")
    identities: dict[str, Mapping[str, Mapping[str, str]]] = {}
    shards = []
    for url in urls:
        if not is_in_store(url) or not scheme_of(url).by_ranges:  # http cannot list a folder
            shards.append(shard_at(url))
            continue
        folder, _, name = url.rpartition("/")
        if folder not in identities:  # one request for all shards of a folder
            identities[folder] = _store(folder).listing()
        shards.append(_shard(url, identities[folder][name]))
    return shards


def shard_at(url: str) -> Shard:
    """The shard at a path or URL, in its current state. Raises FileNotFoundError."""
    if not is_in_store(url):
        found = os.stat(url)
        return Shard(url, found.st_size, str(found.st_mtime_ns))
    store, name = _store_and_name(url)
    listing = store.listing(name)
    if name not in listing:
        raise FileNotFoundError(url)
    return _shard(url, listing[name])


def digest_of(shards: Sequence[Shard]) -> str:
    """A digest of the shards, which does not depend on their folder.

    It covers their names and sizes and, of up to `MOST_COMPARED` shards, the first and last bytes.
    The last bytes of a parquet file hold the numbers of rows and the range of each column.
    """
    compared = shards[:: -(-len(shards) // MOST_COMPARED)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        edges = list(pool.map(_edges, compared))
    lines = [f"{shard.name} {shard.size}" for shard in shards] + edges
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _edges(shard: Shard) -> str:
    """A digest of the first and last `EDGE` bytes; empty for a store that sends only whole files.

    Raises EnvironmentFault if the shard cannot be read.
    """
    spans = ((0, min(EDGE, shard.size)), (max(0, shard.size - EDGE), shard.size))
    if is_in_store(shard.url):
        if not scheme_of(shard.url).by_ranges:
            return ""
        store, name = _store_and_name(shard.url)
        try:
            parts = [store.read(name, span) if shard.size else b"" for span in spans]
        except FileNotFoundError as error:
            raise shard.fault(error) from None
    else:
        parts = []
        with shard.open() as file:
            for start, end in spans:
                file.seek(start)
                parts.append(file.read(end - start))
    return hashlib.sha256(b"".join(parts)).hexdigest()


def format_of(url: str) -> str:
    """The format of a shard: parquet, jsonl or tar."""
    return FORMATS[ending_of(Path(url.rpartition("/")[2]))]


def is_shard(url: str) -> bool:
    """Whether a file's ending is that of a shard."""
    return ending_of(Path(url.rpartition("/")[2])) in FORMATS


def _shard(url: str, identity: Mapping[str, str]) -> Shard:
    return Shard(url, size_of(identity), json.dumps(identity, sort_keys=True))


def _checked_format(url: str, where: str) -> str:
    """The format of a shard, by its ending. Raises InputError if the file cannot be streamed."""
    name = Path(url.rpartition("/")[2])
    found = FORMATS.get(ending_of(name))
    if found is None or (found == "parquet" and name.suffix.lower() in COMPRESSIONS):
        raise InputError(f"{where}: {url}; {ACCEPTED}")
    if found == "parquet" and is_in_store(url) and not scheme_of(url).by_ranges:
        accepted = "accepted: a store that sends parts of files (s3, gs, hf), jsonl or tar"
        raise InputError(f"{where}: {url}: parquet over http; {accepted}")
    return found


def _urls(path: str, where: str) -> list[str]:
    """The paths or URLs of the shards at one path, sorted. In a folder, only data files count."""
    if is_in_store(path):
        root = Path(root_and_glob(path)[0])
        found, is_folder = _stored(path, where)
    else:
        place = Path(os.path.expanduser(path))
        if place.is_file():
            return [str(place)]
        is_folder, root = place.is_dir(), root_of(place)
        found = list(map(str, _files_below(place, where) if is_folder else _files_of(place)))
    for each in found:
        if not is_shard(each) and ending_of(Path(each)) in ENDINGS:
            raise InputError(f"{where}: {each}; {ACCEPTED}")
    if not (listed := sorted(filter(is_shard, found))):
        lacking = "holds no shard" if found or is_folder else "does not exist"
        raise InputError(f"{where}: {path} {lacking}; {ACCEPTED}")
    refuse_other_splits(list(map(Path, listed)), root, where)
    return listed


def _files_below(folder: Path, where: str) -> list[Path]:
    """The data files of a folder, without those of runs. Raises InputError for links out of it."""
    below = Path(glob.escape(str(folder))) / "**" / "*"
    files = [f for f in without_runs(_files_of(below), folder, where) if is_data(f, folder)]
    check_files(files, folder, where)
    return files


def _files_of(pattern: Path) -> list[Path]:
    """The files that match a glob."""
    return [f for each in glob.glob(str(pattern), recursive=True) if (f := Path(each)).is_file()]


def _stored(url: str, where: str) -> tuple[list[str], bool]:
    """The URLs of the files at `url`, and whether it is a folder with any files.

    `url` may name a file or a folder, or be a glob.
    """
    root, pattern = root_and_glob(url.rstrip("/"))
    names = Store(root, where).listing()
    if pattern:
        wanted = [name for name in names if matches_glob(name, pattern)]
    else:
        wanted = [name for name in names if not name or is_data_name(name)]
    found = [joined(root, name) if name else root for name in wanted]
    return found, bool(names) and not pattern


def _store_and_name(url: str) -> tuple[Store, str]:
    folder, _, name = url.rpartition("/")
    return _store(folder), name


@functools.lru_cache(maxsize=64)
def _store(folder: str) -> Store:
    return Store(folder, "dataset.train")
