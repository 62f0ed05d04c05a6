"""The order of a stream's rows: a function of the seed, the epoch, the shards and the window size.

Each epoch shuffles the shards and distributes them over a few lanes. A lane reads its shards one
after the other. A window consists of the next chunk of rows from every lane, and its rows are
shuffled. So each lane has at most one open shard, and rows of different shards are mixed. The order
does not depend on ranks, workers, batch sizes or where a run was interrupted.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from trainer.data.plan import epoch_order, splitmix64

LANES = 8
"""The largest number of shards that are read at the same time."""


@dataclass(frozen=True)
class Lane:
    """The position of a lane: the index of its shard within the lane, and the shard's next row."""

    shard: int = 0
    row: int = 0


@dataclass(frozen=True)
class Cursor:
    """The position of the start of a window."""

    epoch: int
    window: int
    lanes: tuple[Lane, ...]

    def to_json(self) -> dict[str, Any]:
        """The cursor as JSON values, which `of_json` reads."""
        return asdict(self)

    @classmethod
    def of_json(cls, found: Mapping[str, Any]) -> Self:
        """The cursor from JSON values. Raises LookupError, TypeError or ValueError."""
        lanes = tuple(Lane(int(lane["shard"]), int(lane["row"])) for lane in found["lanes"])
        return cls(int(found["epoch"]), int(found["window"]), lanes)


@dataclass(frozen=True)
class Chunk:
    """`size` consecutive rows of one shard, beginning with row `start`."""

    shard: int
    start: int
    size: int


@dataclass(frozen=True)
class Order:
    """The order of all rows of `num_shards` shards, with `window_rows` rows in a full window."""

    seed: int
    num_shards: int
    window_rows: int

    @property
    def num_lanes(self) -> int:
        """The number of shards that are read at the same time."""
        return min(LANES, self.num_shards, self.window_rows)

    @property
    def chunk_rows(self) -> int:
        """The number of rows that a lane adds to a window, unless its shard ends first."""
        return self.window_rows // self.num_lanes

    def begin(self, epoch: int) -> Cursor:
        """The start of an epoch, counted from 0."""
        return Cursor(epoch, 0, (Lane(),) * self.num_lanes)

    def rows(self, cursor: Cursor, num_rows: int) -> np.ndarray:
        """The permutation [num_rows] that shuffles the rows of a window."""
        return epoch_order(num_rows, _mixed(self.seed, cursor.epoch), cursor.window)

    def step(
        self, cursor: Cursor, take: Callable[[int, int, int], int]
    ) -> tuple[list[Chunk], Cursor]:
        """The chunks of the window at a cursor, and the cursor of the next window.

        `take(shard, start, size)` returns how many rows a shard has from `start` on, at most
        `size`; fewer mean that the shard ends. If there are no chunks, the epoch is over, and the
        returned cursor is the start of the next epoch.
        """
        chunks, after = [], []
        for lane, shards in zip(cursor.lanes, _lanes(self, cursor.epoch), strict=True):
            while lane.shard < len(shards):
                shard, start = int(shards[lane.shard]), lane.row
                size = take(shard, start, self.chunk_rows)
                ends = size < self.chunk_rows
                lane = Lane(lane.shard + 1) if ends else Lane(lane.shard, start + size)
                if size:
                    chunks.append(Chunk(shard, start, size))
                    break
            after.append(lane)
        if not chunks:
            return [], self.begin(cursor.epoch + 1)
        return chunks, Cursor(cursor.epoch, cursor.window + 1, tuple(after))


@functools.lru_cache(maxsize=8)
def _lanes(order: Order, epoch: int) -> list[np.ndarray]:
    """The shards of each lane, in reading order."""
    shards = epoch_order(order.num_shards, order.seed, epoch)
    return [shards[lane :: order.num_lanes] for lane in range(order.num_lanes)]


def _mixed(seed: int, epoch: int) -> int:
    """The seed for shuffling the windows of an epoch."""
    numbers = np.array([seed & 0xFFFF_FFFF_FFFF_FFFF, epoch], dtype=np.uint64)
    return int(splitmix64(splitmix64(numbers[:1]) ^ numbers[1:])[0])
