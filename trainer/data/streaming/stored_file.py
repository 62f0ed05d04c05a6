"""StoredFile: reads a file in an object store as if it were on the local disk."""

import io
from collections.abc import Iterator
from typing import IO, cast

from trainer.stores.store import Store
from trainer.stores.url import scheme_of

AT_A_TIME = 4 << 20
"""The number of bytes in one request."""


def stored_file(store: Store, name: str, size: int) -> IO[bytes]:
    """A file of `size` bytes, opened for reading; seekable if the store supports range requests.

    Reading raises EnvironmentFault if the store fails after all retries.
    """
    by_ranges = scheme_of(store.url).by_ranges
    file = StoredFile(store, name, size) if by_ranges else OneRequest(store.pieces(name, size))
    return cast(IO[bytes], io.BufferedReader(file, AT_A_TIME))


class StoredFile(io.RawIOBase):
    """A file that is read with range requests."""

    def __init__(self, store: Store, name: str, size: int) -> None:
        self._store, self._name, self._size, self._at = store, name, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]
        stop = min(self._at + len(buffer), self._size)
        if stop <= self._at:
            return 0
        content = self._store.read(self._name, (self._at, stop))
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)


class OneRequest(io.RawIOBase):
    """A file that is downloaded with a single request while it is read."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._left = pieces, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]
        if not self._left:
            self._left = next(self._pieces, b"")
        taken = self._left[: len(buffer)]
        self._left = self._left[len(taken) :]
        buffer[: len(taken)] = taken
        return len(taken)
