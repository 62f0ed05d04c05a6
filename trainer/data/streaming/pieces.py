"""Pieces: yields the shuffled rows of a stream in groups, beginning at any position."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from trainer.data.streaming.order import Cursor, Order
from trainer.data.streaming.raw_rows import RawRows, joined
from trainer.data.streaming.readers import NO_COLUMNS, Columns, ShardReader
from trainer.data.streaming.shards import Shard
from trainer.errors import InputError

PIECE_ROWS = 1024
"""The number of rows in a piece; they are tokenized together."""
MOST_ROWS = 1 << 62
"""More rows than any shard has."""


@dataclass(frozen=True)
class Place:
    """The position of a piece in a stream."""

    cursor: Cursor
    """The window."""
    piece: int = 0
    """The index of the piece within the window."""

    def to_json(self) -> dict[str, Any]:
        """The place as JSON values, which `of_json` reads."""
        return {"cursor": self.cursor.to_json(), "piece": self.piece}

    @classmethod
    def of_json(cls, found: Mapping[str, Any]) -> Self:
        """The place from JSON values. Raises LookupError, TypeError or ValueError."""
        return cls(Cursor.of_json(found["cursor"]), int(found["piece"]))


@dataclass(frozen=True)
class Piece:
    """Some rows of a window, shuffled."""

    place: Place
    rows: RawRows | None
    """The rows; None if they belong to a window that another rank reads."""


IsMine = Callable[[int], bool]
"""Whether this rank reads the window with this index."""


def pieces(
    shards: Sequence[Shard],
    order: Order,
    place: Place,
    unread: Columns = NO_COLUMNS,
    is_mine: IsMine | None = None,
) -> Iterator[Piece]:
    """Yield the pieces from a place on, epoch after epoch. The iterator never ends.

    With `is_mine`, which needs parquet shards, rows of windows for which it is false are only
    counted. Raises EnvironmentFault if a shard is removed or changed, InputError if a shard is
    damaged or all shards are empty.
    """
    readers: dict[int, ShardReader] = {}
    try:
        cursor, first = place.cursor, place.piece
        while True:
            if is_mine is None or is_mine(cursor.window):
                rows, after = _window(shards, order, cursor, readers, unread)
                size = 0 if rows is None else len(rows)
            else:
                rows, (size, after) = None, _size_of_window(shards, order, cursor, readers, unread)
            if not size and cursor.window == 0:
                raise InputError("dataset.train: the shards have no rows; at least one is needed")
            shuffled = None if rows is None else order.rows(cursor, size)
            for number in range(first, -(-size // PIECE_ROWS)):
                own = None
                if rows is not None and shuffled is not None:
                    start = number * PIECE_ROWS
                    own = rows.take(shuffled[start : start + PIECE_ROWS])
                yield Piece(Place(cursor, number), own)
            cursor, first = after, 0
    finally:
        for reader in readers.values():
            reader.close()


def place_of_row(shards: Sequence[Shard], order: Order, row: int) -> tuple[Place, int]:
    """The place of the piece that contains a row, and the index of the piece's first row.

    Rows are counted from the start of the first epoch. The place is computed from the numbers of
    rows in the shards, without decoding any row. Raises the errors of `pieces`.
    """
    counts = [num_rows(shard, number) for number, shard in enumerate(shards)]
    total = sum(counts)
    if not total:
        raise InputError("dataset.train: the shards have no rows; at least one is needed")

    def take(shard: int, start: int, size: int) -> int:
        return min(size, counts[shard] - start)

    cursor, before = order.begin(row // total), row // total * total
    while True:
        chunks, after = order.step(cursor, take)
        size = sum(chunk.size for chunk in chunks)
        if before + size > row:
            piece = (row - before) // PIECE_ROWS
            return Place(cursor, piece), before + piece * PIECE_ROWS
        cursor, before = after, before + size


def num_rows(shard: Shard, number: int = 0) -> int:
    """The number of rows in a shard, from a parquet file's footer or counted without parsing."""
    reader = ShardReader(shard, number)
    try:
        return reader.count(0, MOST_ROWS)
    finally:
        reader.close()


def _size_of_window(
    shards: Sequence[Shard],
    order: Order,
    cursor: Cursor,
    readers: dict[int, ShardReader],
    unread: Columns,
) -> tuple[int, Cursor]:
    """The number of rows of a window that is not read, and the next cursor."""

    def take(shard: int, start: int, size: int) -> int:
        reader = readers.setdefault(shard, ShardReader(shards[shard], shard, unread))
        found = max(0, min(size, reader.num_rows - start))
        if found < size:
            readers.pop(shard).close()
        return found

    chunks, after = order.step(cursor, take)
    return sum(chunk.size for chunk in chunks), after


def _window(
    shards: Sequence[Shard],
    order: Order,
    cursor: Cursor,
    readers: dict[int, ShardReader],
    unread: Columns,
) -> tuple[RawRows | None, Cursor]:
    """The rows of a window in stored order (None at the end of an epoch), and the next cursor.

    `readers` holds the readers of open shards. A shard that ends is closed and removed from it.
    """
    parts = []

    def take(shard: int, start: int, size: int) -> int:
        reader = readers.setdefault(shard, ShardReader(shards[shard], shard, unread))
        found = reader.take(start, size)
        if len(found) < size:
            readers.pop(shard).close()
        if len(found):
            parts.append(found)
        return len(found)

    _, after = order.step(cursor, take)
    return joined(parts, [shard.name for shard in shards]) if parts else None, after
