"""ShardSamples: samples of sharded rows, which are tokenized during training."""

import hashlib
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from trainer.data.batch import FlatBatch
from trainer.data.collated_tokens import collate_with
from trainer.data.collators import Collator
from trainer.data.preprocessing import augmentation, samples_of
from trainer.data.read_options import BadRow, BadRows
from trainer.data.streaming.pieces import Piece, Place
from trainer.data.streaming.pipeline import Pipeline, owner_of
from trainer.data.streaming.sharded_rows import ShardedRows
from trainer.data.streaming.workers import NoTable, Work, automatic_number
from trainer.data.streams import StreamLengths, StreamSamples, kept_from
from trainer.data.tokens import TokenTable
from trainer.data.unread_columns import unneeded_columns
from trainer.devices.ranks import Ranks
from trainer.errors import InputError
from trainer.tasks.processor import Processor
from trainer.tasks.recipe import Recipe

MAX_JOINED = 3
"""The maximum number of joined tables in memory, for steps whose batches are built in parallel."""
FINGERPRINT_ROWS = 64
"""The number of rows at the start of the data whose tokens are part of the fingerprint."""


@dataclass(frozen=True)
class KeptPiece:
    """A tokenized piece (some consecutive rows) that is kept in memory."""

    place: Place
    """The position of the piece in the stream. If it directly follows pieces without samples, this
    is the position of the first of those, so that a resumed run also lists their dropped rows.
    """
    first: int
    """The stream index of the piece's first sample."""
    table: TokenTable

    @property
    def end(self) -> int:
        """The stream index of the piece's last sample, plus 1."""
        return self.first + len(self.table)


class ShardSamples(StreamSamples):
    """The samples of sharded rows in order, for `StreamPlan`.

    Only the pieces for the current and the next steps are in memory. A checkpoint saves the
    stream's position (`state_at`), so that a resumed run does not read earlier rows. All ranks must
    make the same calls to `has` and `rewind`. `collate` may be called in another thread, for
    samples up to the last one that was passed to `has`.
    """

    def __init__(
        self,
        rows: ShardedRows,
        recipe: Recipe,
        processor: Processor | None,
        *,
        num_samples: int,
        batch_size: int,
        seed: int,
        bad_rows: BadRows,
        collator: Collator | None,
        ranks: Ranks,
    ) -> None:
        """The run trains on `num_samples` samples, in global batches of `batch_size`."""
        self.rows, self.batch_size, self.num_samples = rows, batch_size, num_samples
        self._recipe, self._processor, self._collator = recipe, processor, collator
        self._seed, self._lock = seed, threading.Lock()
        self.one_sample_per_row = recipe.blocks is None and not bad_rows.drops
        """Whether every row is one sample."""
        self.lengths = cast(np.ndarray, StreamLengths(self))
        self.pure = collator is None
        """Whether `collate` has no side effects (of a collator), so that any thread may call it."""
        self.fingerprint = fingerprint_of(rows, recipe, processor)
        """A digest of the shards' names and sizes, and of the first samples."""
        if len(set(ranks.gather(rows.identity))) > 1:
            found = "the processes found different shards"
            raise InputError(f"dataset.train: {found}; accepted: the same files on every machine")
        workers = automatic_number() if rows.num_workers is None else rows.num_workers
        self.rows = rows.without(unneeded_columns(rows.head, recipe, processor))
        work = Work(self.rows.decoder, recipe, processor, bad_rows.policy, bad_rows.limit)
        dealt = rows.window_rows if rows.windows_can_be_dealt and ranks.world_size > 1 else None
        self._dealt_to = ranks if dealt is not None else None
        self._pipeline = Pipeline(self._read, work, workers, ranks, dealt)
        self._begin(Place(rows.order(seed).begin(0)), 0)
        try:
            self.has(0)
        except BaseException:
            self._pipeline.close()
            raise
        self.first_table = self._kept[0].table
        self.fields = self.first_table.fields
        """The fields of the first samples, which are checked before training."""

    def _read(self, place: Place) -> Iterator[Piece]:
        ranks = self._dealt_to
        if ranks is None:
            return self.rows.pieces(self._seed, place)
        is_mine = lambda window: owner_of(window, ranks) == ranks.rank  # noqa: E731
        return self.rows.pieces(self._seed, place, is_mine)

    def _begin(self, place: Place, sample: int) -> None:
        """Continue from the piece at `place`, whose first sample has the index `sample`."""
        self._pipeline.start(place)
        self._kept: deque[KeptPiece] = deque()
        self._read_to = sample
        self._joined: dict[tuple[int, int], TokenTable] = {}
        self._dropped: deque[tuple[int, list[BadRow]]] = deque()

    def __len__(self) -> int:
        return self.num_samples

    def rewind(self) -> None:
        """Go back to the first sample, unless it is still in memory."""
        if not self._kept or self._kept[0].first:
            self._begin(Place(self.rows.order(self._seed).begin(0)), 0)

    def has(self, sample: int) -> bool:
        """Read the stream up to the sample. Returns true, since the stream never ends."""
        keep = kept_from(sample, self.batch_size)
        if self.one_sample_per_row and keep - self._read_to > self.rows.window_rows:
            self._begin(*self.rows.place_of_row(self._seed, keep))
        start: Place | None = None
        while self._read_to <= sample:
            place, table = self._pipeline.next()
            start = start or place
            if table.dropped and place.cursor.epoch == 0:  # later epochs drop the same rows
                self._dropped.append((self._read_to, table.dropped))
            if isinstance(table, NoTable):
                continue
            self._set_augment(table)
            with self._lock:
                self._kept.append(KeptPiece(start, self._read_to, table))
                self._read_to += len(table)
                start = None
                while len(self._kept) > 1 and self._kept[0].end <= keep:
                    self._kept.popleft()
        return True

    def dropped_between(self, start: int, stop: int) -> list[tuple[int, BadRow]]:
        """The rows dropped in the first epoch from pieces whose first sample is in this range.

        Each row comes with the step at which training reaches its piece, and is returned only once.
        """
        found: list[tuple[int, BadRow]] = []
        while self._dropped and self._dropped[0][0] < stop:
            first, rows = self._dropped.popleft()
            if first >= start:
                found += [(first // self.batch_size + 1, row) for row in rows]
        return found

    def _set_augment(self, table: TokenTable) -> None:
        """Add the augmentation and the collator to a table; workers cannot return functions."""
        if self._recipe.augments:
            table.augment = augmentation(self._recipe, self._processor)
        if self._collator is not None:
            collate_with(self._collator, table, self._recipe, "dataset.train")

    def collate(
        self, sample_ids: Sequence[int] | np.ndarray, seed: int = 0, epoch: int | None = None
    ) -> FlatBatch:
        """A batch of these samples, in this order. `has` must have read them."""
        ids = np.asarray(sample_ids, dtype=np.int64)
        first, table = self._holding(int(ids.min()), int(ids.max()))
        return table.collate_as(ids - first, ids, seed, epoch)

    def lengths_of(self, ids: np.ndarray) -> np.ndarray:
        """The number of tokens of each sample. Reads the stream up to the last of them."""
        if not len(ids):
            return np.empty(0, np.int64)
        self.has(int(ids.max()))
        first, table = self._holding(int(ids.min()), int(ids.max()))
        found: np.ndarray = table.lengths[ids - first]
        return found

    def _holding(self, low: int, high: int) -> tuple[int, TokenTable]:
        """(index of the first sample, table) for a table that contains samples `low` to `high`."""
        start = low // self.batch_size * self.batch_size  # so that a global batch needs one table
        stop = max(high + 1, start + self.batch_size)
        with self._lock:
            chosen = [each for each in self._kept if each.end > start and each.first < stop]
            if not chosen or chosen[0].first > low or chosen[-1].end <= high:
                raise InputError(f"dataset.train: sample {low} of the stream was dropped")
            if len(chosen) == 1:
                return chosen[0].first, chosen[0].table
            wanted = (chosen[0].first, chosen[-1].end)
            if wanted not in self._joined:
                while len(self._joined) >= MAX_JOINED:
                    del self._joined[next(iter(self._joined))]
                self._joined[wanted] = TokenTable.joined([each.table for each in chosen])
            return wanted[0], self._joined[wanted]

    def placeholder(self) -> FlatBatch:
        return self.first_table.placeholder()

    def padding_avoided(self, batch_size: int) -> float:
        return self.first_table.padding_avoided(batch_size)

    def state_at(self, sample: int) -> dict[str, Any]:
        """The position of the piece that contains a sample, as `KeptPiece.place` defines it.

        If no piece in memory contains the sample, this is the position of the last piece in memory.
        """
        with self._lock:
            kept = next((each for each in self._kept if each.end > sample), self._kept[-1])
        return {"place": kept.place.to_json(), "first": kept.first}

    def seek(self, state: Mapping[str, Any]) -> None:
        """Go to a position from `state_at`. Raises InputError for an invalid position."""
        try:
            place, first = Place.of_json(state["place"]), int(state["first"])
            if len(place.cursor.lanes) != self.rows.order(self._seed).num_lanes:
                raise ValueError("another number of lanes")
        except (LookupError, TypeError, ValueError) as error:
            raise InputError(f"resume: the stream's position cannot be read ({error})") from None
        self._begin(place, first)

    def close(self) -> None:
        """Stop the threads and processes that read and tokenize."""
        self._pipeline.close()
        self._kept.clear()


def fingerprint_of(rows: ShardedRows, recipe: Recipe, processor: Processor | None) -> str:
    """A digest of the shards' names and sizes and of the first samples."""
    first = rows.head.select(range(min(FINGERPRINT_ROWS, len(rows.head))))
    drops = BadRows("drop", 1.0)
    samples = samples_of(first, recipe, processor, where="dataset.train", bad_rows=drops)
    text = f"{rows.digest()} {samples.fingerprint}"
    return hashlib.sha256(text.encode()).hexdigest()
