"""Readers: read the rows of a parquet, JSON Lines or webdataset tar shard in order from any row.

A reader keeps little of its shard in memory: a parquet row group is decoded in parts, and text and
tar files are decompressed while they are read. Reading a parquet file starts at the row group of
the first row. Text and tar files are read from their beginning, and skipped rows are not parsed.
"""

import bz2
import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, Self, TypeVar

import numpy as np

from trainer.data.arrow_files import MAX_METADATA
from trainer.data.compressed import COMPRESSIONS
from trainer.data.streaming.raw_rows import KEY, RawRows
from trainer.data.streaming.shards import Shard
from trainer.errors import InputError
from trainer.stores.url import is_in_store

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_AT_A_TIME = 1024
"""The number of rows of a parquet file to decode at a time."""
LONGEST = 1 << 30
"""The largest accepted size in bytes of a line, or of a file in a tar."""

T = TypeVar("T")
Columns = frozenset[str]
"""The names of columns, as they are in the shards."""
NO_COLUMNS: Columns = frozenset()
Entry = tuple[int, Any]
"""The location of a row in its shard, and its content: a line or, in a tar, {ending: bytes}."""


class Reader(Protocol):
    """The interface of the readers, which read a shard in order; each format has its own reader."""

    row: int
    """The next row, counted from 0."""

    def read(self, size: int) -> "tuple[pa.Table, np.ndarray]":
        """The next `size` rows and their locations; fewer if the shard ends."""
        ...

    def skip(self, size: int) -> int:
        """Skip `size` rows, or fewer if the shard ends. Returns the number of skipped rows."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class ShardReader:
    """Reads chunks of one shard; to go back to an earlier row, it opens the shard again.

    Raises EnvironmentFault if the shard is removed or changed, InputError if it is damaged.
    """

    def __init__(self, shard: Shard, number: int, unread: Columns = NO_COLUMNS) -> None:
        """`number` is the shard's index among all shards; the columns `unread` are left out."""
        self.shard, self.number, self.unread = shard, number, unread
        self._reader: Reader | None = None

    def take(self, start: int, size: int) -> RawRows:
        """`size` rows from `start` on; fewer if the shard ends."""
        table, places = self._at(start, lambda reader: reader.read(size))
        if len(places) < size:  # checking every chunk would be slow in object stores
            self.shard.check()
        return RawRows(table, np.full(len(places), self.number, np.int32), places)

    def count(self, start: int, size: int) -> int:
        """The number of rows from `start` on, at most `size`."""
        return self._at(start, lambda reader: reader.skip(size))

    @property
    def num_rows(self) -> int:
        """The number of rows of a parquet file, from its footer."""

        def of_footer(reader: Reader) -> int:
            assert isinstance(reader, ParquetReader)
            return reader.num_rows

        return self._at(0 if self._reader is None else self._reader.row, of_footer)

    def close(self) -> None:
        """Close the file."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _at(self, start: int, call: Callable[[Reader], T]) -> T:
        """Move the reader to the row `start`, and return the result of `call(reader)`."""
        import pyarrow as pa

        damage = (pa.ArrowException, OSError, EOFError, ValueError, lzma.LZMAError, zlib.error)
        try:
            if self._reader is None or self._reader.row > start:
                self.close()
                self._reader = _READERS[self.shard.format](self.shard, self.unread)
            if not is_in_store(self.shard.url):
                self.shard.check()
            if self._reader.row < start:
                self._reader.skip(start - self._reader.row)
            return call(self._reader)
        except InputError:
            raise
        except (*damage, tarfile.TarError) as error:
            self.shard.check()  # if the shard has changed, report that instead
            if isinstance(error, OSError) and error.errno is not None:
                raise self.shard.fault(error) from None
            found = (str(error) or type(error).__name__).splitlines()[0]
            place = f"dataset.train: {self.shard.url}"
            raise InputError(f"{place}: not a complete file ({found:.200})") from None


class ParquetReader:
    """Reads the rows of a parquet file, one row group after another."""

    def __init__(self, shard: Shard, unread: Columns = NO_COLUMNS) -> None:
        import pyarrow.parquet as pq

        self._handle = shard.open()
        local = not is_in_store(shard.url)
        self._file = pq.ParquetFile(
            shard.url if local else self._handle,
            thrift_string_size_limit=MAX_METADATA,
            pre_buffer=not local,
            buffer_size=1 << 20,
        )
        names = self._file.schema_arrow.names
        self._columns = [name for name in names if name not in unread] if unread else None
        meta = self._file.metadata
        sizes = [meta.row_group(group).num_rows for group in range(meta.num_row_groups)]
        self._ends = np.cumsum(sizes, dtype=np.int64)
        self.row = 0
        self._seek(0)

    def read(self, size: int) -> "tuple[pa.Table, np.ndarray]":
        import pyarrow as pa

        parts, start = [], self.row
        while self.row < start + size:
            if (found := self._next(start + size - self.row)) is None:
                break
            parts.append(found)
            self.row += len(found)
        schema = self._file.schema_arrow
        if self._columns is not None:
            schema = pa.schema([schema.field(name) for name in self._columns], schema.metadata)
        table = pa.Table.from_batches([part.select(schema.names) for part in parts], schema)
        return table, np.arange(start, self.row)

    @property
    def num_rows(self) -> int:
        """The number of rows in the file."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def skip(self, size: int) -> int:
        start, end = self.row, self.num_rows
        target = min(start + size, end)
        if np.searchsorted(self._ends, target, side="right") > self._group:
            self._seek(target)
        while self.row < target and (found := self._next(target - self.row)) is not None:
            self.row += len(found)
        return target - start

    def close(self) -> None:
        self._file.close()
        self._handle.close()

    def _seek(self, row: int) -> None:
        """Go to the start of the row group that contains a row."""
        self._group = int(np.searchsorted(self._ends, row, side="right"))
        self.row = int(self._ends[self._group - 1]) if self._group else 0
        self._batches: Iterator[Any] = self._rest_from(self._group)
        self._left: pa.RecordBatch | None = None

    def _rest_from(self, group: int) -> Iterator[Any]:
        for number in range(group, len(self._ends)):
            self._group = number
            yield from self._file.iter_batches(ROWS_AT_A_TIME, [number], self._columns)

    def _next(self, most: int) -> "pa.RecordBatch | None":
        """The next rows, at most `most` of them; None at the end."""
        while self._left is None or not len(self._left):
            self._left = next(self._batches, None)
            if self._left is None:
                return None
        found, self._left = self._left[:most], self._left[most:]
        return found


class EntryReader:
    """Reads the rows of a file that can only be read from its beginning."""

    def __init__(self, shard: Shard, unread: Columns = NO_COLUMNS) -> None:
        self._handle, self.unread = shard.open(), unread
        self.row = 0
        self._entries = self.entries(decompressed(self._handle, shard.url), shard)

    def entries(self, file: IO[bytes], shard: Shard) -> Iterator[Entry]:
        """Yield the location and the content of each row."""
        raise AssertionError("a subclass defines it")

    def read(self, size: int) -> "tuple[pa.Table, np.ndarray]":
        found = list(islice(self._entries, size))
        self.row += len(found)
        places = np.array([place for place, _ in found], dtype=np.int64)
        return self.table([content for _, content in found]), places

    def table(self, contents: list[Any]) -> "pa.Table":
        """The contents of rows as a table."""
        raise AssertionError("a subclass defines it")

    def skip(self, size: int) -> int:
        skipped = sum(1 for _ in islice(self._entries, size))
        self.row += skipped
        return skipped

    def close(self) -> None:
        self._handle.close()


class LineReader(EntryReader):
    """Reads the nonblank lines of a file; the location of a row is its line number."""

    def entries(self, file: IO[bytes], shard: Shard) -> Iterator[Entry]:
        for number, line in enumerate(iter(lambda: file.readline(LONGEST), b""), 1):
            if len(line) == LONGEST:
                found = f"{shard.url}:{number}: a line of {LONGEST:,} bytes or more"
                raise InputError(f"dataset.train: {found}; accepted: shorter ones")
            if line.strip():
                yield number, line

    def table(self, contents: list[Any]) -> "pa.Table":
        import pyarrow as pa

        return pa.table({"line": pa.array(contents, pa.large_binary())})


class WholeHeader(tarfile.TarInfo):
    """The header of a file in a tar. A damaged or missing header is an error.

    `tarfile` itself treats such a header as the end of the archive, so the files after it would be
    lost without an error. It also spends most of its time on headers; this class reads those of
    plain files three times as fast.
    """

    @classmethod
    def frombuf(cls, buf: "bytes | bytearray", encoding: str, errors: str) -> Self:
        """The header in a block. Raises ReadError for damage, and HeaderError at the normal end."""
        if (plain := _plain_header(buf)) is not None:
            name, size = plain
            found = cls(name.decode(encoding, errors))
            found.size = size
            return found
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf and not any(buf):  # a block of zeros ends an archive
                raise
            reason = str(error) if buf else "the end of the archive is missing"
            raise tarfile.ReadError(reason) from None


def _plain_header(buf: "bytes | bytearray") -> tuple[bytes, int] | None:
    """The name and the size in the header of a regular file.

    None for other headers, damaged ones, and names and sizes that do not fit into their usual
    fields: `tarfile` reads those.
    """
    name = bytes(buf[:100]).partition(b"\0")[0]
    if len(buf) != tarfile.BLOCKSIZE or buf[156:157] != tarfile.REGTYPE or name.endswith(b"/"):
        return None
    if buf[345] or buf[124] & 0x80:  # the name has a prefix, or the size is a binary number
        return None
    try:
        size, checksum = (
            int(bytes(part).rstrip(b" \0"), 8) for part in (buf[124:136], buf[148:156])
        )
    except ValueError:
        return None
    spaces = 8 * ord(" ")  # the checksum counts its own field as spaces
    matches = sum(buf) - sum(buf[148:156]) + spaces == checksum
    return (name, size) if matches and size >= 0 else None


class TarReader(EntryReader):
    """Reads the rows of a webdataset: a row is a series of consecutive files with the same key."""

    def entries(self, file: IO[bytes], shard: Shard) -> Iterator[Entry]:
        place = 0
        row: dict[str, bytes | None] = {}
        with tarfile.open(fileobj=file, mode="r|", tarinfo=WholeHeader) as archive:
            for member in archive:
                # `archive` would keep the headers of all files
                archive.members.clear()  # type: ignore[attr-defined]
                if member.isdir():
                    continue
                key, ending = _parts_of(member, shard)
                if row and row[KEY] != key.encode():
                    yield place, row
                    place, row = place + 1, {}
                if ending in row:
                    found = f"{shard.url}: {member.name} occurs twice"
                    raise InputError(f"dataset.train: {found}; accepted: each file once")
                content = archive.extractfile(member) if self._is_wanted(ending) else None
                row |= {KEY: key.encode(), ending: content.read() if content else None}
        if row:
            yield place, row

    def _is_wanted(self, ending: str) -> bool:
        """Whether to read files with this ending; each ending is a column of the rows."""
        return ending not in self.unread

    def table(self, contents: list[Any]) -> "pa.Table":
        import pyarrow as pa

        names = dict.fromkeys(name for row in contents for name in row)
        columns = {name: [row.get(name) for row in contents] for name in names}
        return pa.table({n: pa.array(cells, pa.large_binary()) for n, cells in columns.items()})


def _parts_of(member: tarfile.TarInfo, shard: Shard) -> tuple[str, str]:
    """The key and the ending of a file: folder/0001.seg.png gives folder/0001 and seg.png."""
    folder, slash, name = member.name.rpartition("/")
    stem, _, ending = name.partition(".")
    if not member.isreg() or not ending or member.size > LONGEST:
        found = f"{shard.url}: {member.name:.80}"
        accepted = f"files below {LONGEST:,} bytes named KEY.ENDING, no links"
        raise InputError(f"dataset.train: {found}; accepted in a tar: {accepted}")
    return f"{folder}{slash}{stem}", ending.lower()


def decompressed(file: IO[bytes], url: str) -> IO[bytes]:
    """The file as a stream of decompressed bytes; the ending of `url` implies the compression."""
    import pyarrow as pa

    kind = Path(url).suffix.lower()
    if kind == ".zst":
        source: Any = pa.CompressedInputStream(pa.PythonFile(file), "zstd")
        return io.BufferedReader(source, 1 << 20)
    opened: Any = {".gz": gzip.open, ".tgz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    if kind in (*COMPRESSIONS, ".tgz"):
        return io.BufferedReader(opened[kind](file), 1 << 20)
    return file


_READERS: dict[str, Any] = {"parquet": ParquetReader, "jsonl": LineReader, "tar": TarReader}
