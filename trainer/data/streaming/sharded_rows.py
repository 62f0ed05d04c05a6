"""ShardedRows: training rows in shards that are read during training."""

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from trainer.data.read_options import BadRows
from trainer.data.streaming.decoding import Decoder
from trainer.data.streaming.order import LANES, Order
from trainer.data.streaming.pieces import PIECE_ROWS, IsMine, Piece, Place, pieces, place_of_row
from trainer.data.streaming.raw_rows import RawRows
from trainer.data.streaming.readers import NO_COLUMNS, Columns, ShardReader
from trainer.data.streaming.shards import Shard, digest_of
from trainer.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

LARGEST_DEALT = 32_768
"""The largest number of rows per window at which each window is read by a single rank."""
HEAD_ROWS = 1000
"""The number of rows to read before training, to complete the recipe (its labels, for example)."""


@dataclass
class ShardedRows:
    """The rows of shards (files), which may be larger than memory and disk.

    Iterating yields the rows of one epoch as dicts. The rows are shuffled in windows of
    `window_rows`; `pieces` yields them in small consecutive pieces and never ends.
    """

    shards: tuple[Shard, ...]
    columns: Mapping[str, str]
    """Columns to rename, as {old name: new name}."""
    window_rows: int
    """The number of rows that are shuffled together."""
    num_workers: int | None = None
    """The number of processes that tokenize; None: the number of cores decides."""
    seed: int = 0
    """The seed of the order in which the rows are iterated."""
    epoch: int = 0
    """The epoch of the next iteration."""
    unread: Columns = NO_COLUMNS
    """The names, in the shards, of columns that are not read."""

    def order(self, seed: int) -> Order:
        """The order of the rows for a run's seed."""
        return Order(seed, len(self.shards), self.window_rows)

    @cached_property
    def decoder(self) -> Decoder:
        """The decoder of the shards."""
        names = tuple(shard.url for shard in self.shards)
        return Decoder(self.shards[0].format, names, self.columns, self.unread)

    def without(self, names: Collection[str]) -> "ShardedRows":
        """The same rows without these columns.

        The contents of these columns are neither decoded nor checked. In parquet files they are not
        even read or downloaded.
        """
        stored = {new: old for old, new in self.columns.items()}
        return replace(self, unread=frozenset(stored.get(name, name) for name in names))

    @property
    def windows_can_be_dealt(self) -> bool:
        """Whether each window can be read by one rank only. This needs parquet, in which the number
        of rows is known before reading. It is limited to small windows, because a rank keeps the
        pieces of a window in memory before they are used.
        """
        return self.shards[0].format == "parquet" and self.window_rows <= LARGEST_DEALT

    def pieces(
        self, seed: int, place: Place | None = None, is_mine: IsMine | None = None
    ) -> Iterator[Piece]:
        """Yield the pieces from `place` on (None: the beginning), epoch after epoch.

        The rows of windows for which `is_mine` is false are not read.
        """
        order = self.order(seed)
        return pieces(self.shards, order, place or Place(order.begin(0)), self.unread, is_mine)

    def place_of_row(self, seed: int, row: int) -> tuple[Place, int]:
        """The position of the piece that contains a row, and the index of the piece's first row."""
        return place_of_row(self.shards, self.order(seed), row)

    @cached_property
    def head(self) -> "Dataset":
        """The first rows, in stored order and with all columns, of the first shard with rows."""
        return replace(self.decoder, unread=NO_COLUMNS).table(
            _first(self.shards), BadRows("drop", 1.0)
        )

    @property
    def column_names(self) -> list[str]:
        """The columns of the first rows."""
        names: list[str] = self.head.column_names
        return names

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for piece in self.pieces(self.seed, Place(self.order(self.seed).begin(self.epoch))):
            if piece.place.cursor.epoch > self.epoch:
                return
            assert piece.rows is not None
            yield from self.decoder.table(piece.rows, BadRows(), are_all=False)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration."""
        self.epoch = epoch

    @cached_property
    def identity(self) -> str:
        """A string that changes if the shards or the order of rows change (see `digest_of`)."""
        return f"{digest_of(self.shards)} {self.window_rows} {PIECE_ROWS} {LANES}"

    def digest(self) -> str:
        """A digest of the shards, the order of rows and the first rows."""
        rows = hashlib.sha256(repr(self.head[:]).encode()).hexdigest()
        return hashlib.sha256(f"{self.identity} {rows}".encode()).hexdigest()


def _first(shards: Sequence[Shard]) -> RawRows:
    for number, shard in enumerate(shards):
        reader = ShardReader(shard, number)
        try:
            found = reader.take(0, HEAD_ROWS)
        finally:
            reader.close()
        if len(found):
            return found
    raise InputError("dataset.train: the shards have no rows; at least one is needed")
