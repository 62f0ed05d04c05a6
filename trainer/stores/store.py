"""Store: lists, reads, writes and removes the files below a URL, and retries failed requests."""

import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from trainer.errors import EnvironmentFault, InputError
from trainer.stores.faults import fault_of, is_transient, reason
from trainer.stores.url import check_url, joined, scheme_name, scheme_of

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

logger = logging.getLogger("trainer")
Result = TypeVar("Result")

PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds to wait before each retry, in addition to the retries of the client libraries."""
WINDOW = 8 << 20
"""The maximum number of bytes that one request reads."""
AT_ONCE = 4
"""The number of requests or file transfers that run in parallel."""
IDENTITY = ("size", "ETag", "etag", "md5Hash", "generation", "LastModified", "mtime", "created") + (
    *("last_modified", "oid", "blob_id", "xet_hash", "uploaded_at"),
)
"""Fields of a listing entry that change when the file changes."""


class Store:
    """A folder in a store. File names are relative to the folder and use slashes.

    A request that fails with a transient error is retried after each of `PAUSES`. For any other
    error, and after the last retry, EnvironmentFault is raised, or InputError if no request has
    succeeded yet and the credentials or the URL are wrong.
    """

    def __init__(self, url: str, where: str, writes: bool = False) -> None:
        """Raises InputError, whose message begins with `where`, for a URL that cannot be used."""
        check_url(url, where, writes)
        self.url, self.where = url.rstrip("/"), where
        self._scheme = scheme_of(url)
        self._has_answered = False
        self._client, self._root = _client(self.url, where)

    def listing(self, below: str = "") -> dict[str, dict[str, str]]:
        """List the files in the folder `below` of the store, including those in its subfolders.

        Returns name -> identity: the fields of the listing that change when the file changes. A
        folder that does not exist is empty. If the store's URL is the URL of a single file, the
        name of that file is "".
        """
        root = self._path(below)

        def find() -> Mapping[str, Mapping[str, Any]]:
            if not self._scheme.by_ranges:
                return {root: self._client.info(root)}
            self._client.invalidate_cache()
            return self._client.find(root, detail=True)

        try:
            found = self._call(f"list {below or 'its files'}", find, may_lack=True)
        except FileNotFoundError as error:
            if self._scheme.has_folders:
                return {}
            raise fault_of(error, self._message("list its files"), self.url, True) from None
        return {
            self._name(path): _identity(info)
            for path, info in sorted(found.items())
            if info.get("type") != "directory" and not path.endswith("/")
        }

    def read(self, name: str, span: tuple[int, int] | None = None) -> bytes:
        """The content of a file, or only the bytes from `span[0]` up to `span[1]`.

        Raises FileNotFoundError if the file does not exist.
        """
        start, end = span or (None, None)
        path = self._path(name)
        # as keyword arguments, because clients differ in the order of their parameters
        return self._call(
            f"read {name}",
            lambda: self._client.cat_file(path, start=start, end=end),
            may_lack=True,
        )

    def pieces(self, name: str, size: int) -> Iterator[bytes]:
        """Yield the content of a file of `size` bytes in pieces, which are requested in parallel.

        Raises EnvironmentFault if the file has another size or no longer exists.
        """
        try:
            yield from self._pieces(name, size)
        except FileNotFoundError as error:
            raise EnvironmentFault(f"{self._message(f'read {name}')}: it was removed") from error

    def _pieces(self, name: str, size: int) -> Iterator[bytes]:
        if not self._scheme.by_ranges:
            yield from self._streamed(name)
            return
        if size <= WINDOW:
            yield self._whole(self.read(name), name, size)
            return
        spans = [(start, min(start + WINDOW, size)) for start in range(0, size, WINDOW)]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            waiting: list[Future[bytes]] = []
            for span in spans:
                waiting.append(pool.submit(self._span, name, span))
                if len(waiting) > AT_ONCE:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()

    def write(self, name: str, content: bytes) -> None:
        """Create or replace a file."""
        path = self._path(name)
        self._make_folder(path)
        self._call(f"write {name}", lambda: self._client.pipe_file(path, content))

    def upload(self, name: str, file: Path) -> None:
        """Create or replace a file with the content of a local file."""
        path = self._path(name)
        self._make_folder(path)
        self._call(f"write {name}", lambda: self._client.put_file(str(file), path))

    def upload_all(self, contents: Mapping[str, Path]) -> None:
        """Upload files in parallel: name -> local file."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda each: self.upload(*each), contents.items()))

    def copy(self, source: str, target: str) -> None:
        """Copy a file inside the store."""
        paths = self._path(source), self._path(target)
        self._make_folder(paths[1])
        self._call(f"copy {source}", lambda: self._client.cp_file(*paths))

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; files that do not exist are ignored."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(self._remove, names))

    def _remove(self, name: str) -> None:
        path = self._path(name)
        try:  # a request for each file, because s3fs hides failures if it removes many at once
            self._call(f"remove {name}", lambda: self._client.rm_file(path), may_lack=True)
        except FileNotFoundError:
            return

    def _streamed(self, name: str) -> Iterator[bytes]:
        """Yield the content of a file whose size may be unknown, from a single request."""
        file = self._call(f"read {name}", lambda: self._client.open(self._path(name), "rb"))
        with file:
            while piece := self._call(f"read {name}", lambda: file.read(WINDOW)):
                yield piece

    def _span(self, name: str, span: tuple[int, int]) -> bytes:
        return self._whole(self.read(name, span), name, span[1] - span[0])

    def _whole(self, content: bytes, name: str, size: int) -> bytes:
        if len(content) != size:
            found = f"{len(content):,} bytes where its listing says {size:,}"
            raise EnvironmentFault(f"{self._message(f'read {name}')}: found {found}")
        return content

    def _call(self, action: str, work: Callable[[], Result], may_lack: bool = False) -> Result:
        """Call `work`, with the retries that the class describes, and return its result.

        With `may_lack`, a FileNotFoundError is raised unchanged without a retry.
        """
        for pause in (*PAUSES, None):
            try:
                result = work()
                self._has_answered = True
                return result
            except Exception as error:  # each client has its own errors
                if may_lack and isinstance(error, FileNotFoundError):
                    raise
                if pause is None or not is_transient(error):
                    first = not self._has_answered
                    raise fault_of(error, self._message(action), self.url, first) from None
                logger.warning("%s: %s; trying again", self._message(action), reason(error))
                time.sleep(pause * random.uniform(0.5, 1))
        raise AssertionError("the last attempt raises or returns")

    def _message(self, action: str) -> str:
        return f"{self.where}: {self.url}: cannot {action}".rstrip()

    def _path(self, name: str) -> str:
        return joined(self._root, name) if name else self._root

    def _name(self, path: str) -> str:
        """The name of a listed file. Raises InputError if no local file could have that name."""
        name = path[len(self._root) :].removeprefix("/")
        if name and any(part in ("", ".", "..") for part in name.split("/")) or "\0" in name:
            raise InputError(f"{self.where}: {self.url}: found the name {name!r}; accepted: a/b.c")
        return name

    def _make_folder(self, path: str) -> None:
        if self._scheme.has_folders:
            parent = path.rpartition("/")[0]
            self._call("make a folder", lambda: self._client.makedirs(parent, exist_ok=True))


def _client(url: str, where: str) -> "tuple[AbstractFileSystem, str]":
    """The fsspec client for a URL, which does not cache listings, and the client's path for it."""
    import fsspec

    name = scheme_name(url)
    options = {} if name in ("memory", "hf") else {"use_listings_cache": False}
    try:
        kind = fsspec.get_filesystem_class(name)
        options |= kind._get_kwargs_from_urls(url)
        client = fsspec.filesystem(name, skip_instance_cache=name != "memory", **options)
        return client, str(client._strip_protocol(url)).rstrip("/")
    except Exception as error:  # each client has its own errors
        raise fault_of(error, f"{where}: {url}: cannot be opened", url, True) from None


def _identity(info: Mapping[str, object]) -> dict[str, str]:
    return {key: str(info[key]) for key in IDENTITY if info.get(key) is not None}


def size_of(identity: Mapping[str, str]) -> int:
    """The size of a listed file in bytes, or -1 if the store does not give it."""
    return int(identity.get("size", -1))
