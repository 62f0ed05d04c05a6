"""Streams: training rows that can only be read in order, without a length."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol, cast

import numpy as np

from trainer.data.batch import Batch, FlatBatch, StackedBatch
from trainer.data.collators import Collator
from trainer.data.plan import GlobalBatchPlan
from trainer.data.row_seeds import preserve_rng_state, seed_rng_for_row
from trainer.data.stacked_samples import batch_of, digest_of, has_tokens, rows_for
from trainer.data.tokens import TokenTable
from trainer.errors import InputError

FINGERPRINT_ROWS = 16
"""The fingerprint of a `RowStream` covers this many of its first rows."""
CHUNK = 256
"""The number of rows tokenized together."""


class StreamRows:
    """The rows of a stream by index, read in order; only recent rows stay in memory.

    A stream that ends is restarted if it can be read again. If the stream has `set_epoch`, it is
    called before every pass except the first; after a rewind, it is called before the first pass
    too if it has been called before. The global random generators are seeded for each row from the
    seed, the pass and the row's position in the pass. Every rank reads all rows.
    """

    def __init__(self, stream: Iterable[Any], where: str, seed: int) -> None:
        self.where, self._stream, self._seed = where, stream, seed
        self._once = isinstance(stream, Iterator)
        self._was_told = False
        """Whether `set_epoch` was ever called; if so, a rewind must call it to reset the epoch."""
        self._begin()

    def _begin(self) -> None:
        self._pass, self._in_pass = -1, 0
        self._rows: Iterator[Any] = iter(())
        self._kept: deque[Any] = deque()
        self._first = 0
        """The index of the first row in memory."""
        self.ended = False
        """Whether the stream has no more rows and cannot be restarted."""

    def rewind(self) -> None:
        """Restart at row 0. Raises InputError if the rows can be read only once."""
        if self._first and self._once:
            accepted = "accepted: a data set that can be read again, such as an IterableDataset"
            raise InputError(
                f"{self.where}: this iterator has been used up by a training run; {accepted}"
            )
        if self._first:
            self._begin()

    def has(self, number: int) -> bool:
        """Whether the stream has a row with this index. Reads the stream up to it."""
        while self.read_to <= number and not self.ended:
            self._read(number + 1 - self.read_to)
        return number < self.read_to

    def __getitem__(self, number: int) -> Any:
        if number < self._first:
            raise InputError(
                f"{self.where}: row {number} of the stream was dropped and is needed again; "
                "accepted: a data set with indexed rows"
            )
        if not self.has(number):
            raise InputError(f"{self.where}: the stream ended after {self.read_to} rows")
        return self._kept[number - self._first]

    def forget_before(self, number: int) -> None:
        """Drop the rows before this index from memory."""
        while self._first < number and self._kept:
            self._kept.popleft()
            self._first += 1

    @property
    def read_to(self) -> int:
        """The number of rows that have been read so far."""
        return self._first + len(self._kept)

    def _read(self, count: int) -> None:
        """Read up to `count` more rows; stop at the end of the current pass."""
        before = self._in_pass
        with preserve_rng_state():
            for _ in range(count):
                seed_rng_for_row(self._seed, max(self._pass, 0), self._in_pass)
                try:
                    self._kept.append(next(self._rows))
                except StopIteration:
                    self._begin_again(empty=not before and not self._in_pass)
                    return
                self._in_pass += 1

    def _begin_again(self, empty: bool) -> None:
        if self._pass >= 0 and (self._once or empty):
            self.ended = True
            if empty and not self.read_to:
                raise InputError(f"{self.where}: the stream has no rows")
            return
        self._pass, self._in_pass = self._pass + 1, 0
        if (self._pass or self._was_told) and hasattr(self._stream, "set_epoch"):
            self._stream.set_epoch(self._pass)
            self._was_told = True
        self._rows = iter(self._stream)


class StreamSamples(ABC):
    """The interface of samples that are read in order, for `StreamPlan` and the training loop."""

    batch_size: int
    """The number of samples in a global batch."""
    lengths: np.ndarray
    """[N], the number of tokens of each sample; defined only for samples that have been read."""
    fingerprint: str
    """A digest of the first samples."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of samples that the whole run reads."""

    @abstractmethod
    def has(self, sample: int) -> bool:
        """Whether the stream has this sample. Reads the stream up to it."""

    @abstractmethod
    def rewind(self) -> None:
        """Start again with the first sample."""

    @abstractmethod
    def collate(
        self, sample_ids: Sequence[int] | np.ndarray, seed: int = 0, epoch: int = 0
    ) -> Batch:
        """A batch of these samples, in this order."""

    @abstractmethod
    def placeholder(self) -> Batch:
        """A small batch for a rank without samples."""

    def padding_avoided(self, batch_size: int) -> float:
        """The share of pad tokens that random batches of this size would have if padded, or 0."""
        return 0.0

    @property
    def first_lengths(self) -> np.ndarray:
        """The number of tokens of each sample of the first step.

        All ranks must read it, since `has` may be a collective operation.
        """
        count = self.batch_size
        while not self.has(count - 1):
            count -= 1
        return self.lengths[np.arange(count)]

    def state_at(self, sample: int) -> dict[str, Any]:
        """JSON values with which `seek` finds this sample; empty if all rows must be reread."""
        return {}

    def seek(self, state: Mapping[str, Any]) -> None:
        """Go to the sample for which `state_at` returned `state`."""
        raise AssertionError(f"{type(self).__name__} saves no position")

    def close(self) -> None:
        """Release files and processes. By default there are none."""
        return


class RowStream(StreamSamples):
    """Samples for a plain module, read in order from a stream of rows; for `StreamPlan`."""

    def __init__(
        self,
        rows: StreamRows,
        num_samples: int,
        batch_size: int,
        input_names: Sequence[str],
        collator: Collator | None,
    ) -> None:
        """The run reads `num_samples` samples, in global batches of `batch_size`."""
        self.rows, self.batch_size = rows, batch_size
        self.input_names, self.collator = input_names, collator
        self.first_row = rows[0]
        self.by_tokens = has_tokens(self.first_row)
        length = len(self.first_row["input_ids"]) if self.by_tokens else 1
        self.lengths = np.broadcast_to(np.int64(max(1, length)), num_samples)
        """[N], all equal to the length of the first row."""
        first = list(islice(_from(rows, 0), FINGERPRINT_ROWS))
        self.fingerprint = digest_of(rows_for(collator, first, input_names), len(first))
        """A digest of the first rows."""

    def rewind(self) -> None:
        """Start again with the first row."""
        self.rows.rewind()

    def __len__(self) -> int:
        return len(self.lengths)

    def has(self, sample: int) -> bool:
        """Whether the stream has this sample. Reads the stream up to it."""
        while self.rows.read_to + self.batch_size <= sample and self.rows.has(self.rows.read_to):
            self.rows.forget_before(self.rows.read_to)  # a resumed run drops the rows it has seen
        found = self.rows.has(sample)
        self.rows.forget_before(kept_from(sample, self.batch_size))
        return found

    def collate(
        self, sample_ids: Sequence[int] | np.ndarray, seed: int = 0, epoch: int = 0
    ) -> StackedBatch:
        """A batch of these samples. Only the training thread may call it."""
        ids = np.asarray(sample_ids, dtype=np.int64)
        return self._batch([self.rows[int(i)] for i in ids], ids, seed, epoch)

    def placeholder(self) -> StackedBatch:
        return self._batch([self.first_row], np.zeros(1, np.int64), 0, 0)

    def _batch(self, rows: list[Any], ids: np.ndarray, seed: int, epoch: int) -> StackedBatch:
        found = rows_for(self.collator, rows, self.input_names)
        return batch_of(found, ids, self.input_names, self.collator, seed, epoch)


class TokenStream(StreamSamples):
    """Samples from a stream of rows, which a recipe tokenizes in chunks; for `StreamPlan`."""

    def __init__(
        self,
        rows: StreamRows,
        num_samples: int,
        batch_size: int,
        tokenized: Callable[[list[Any]], TokenTable],
        one_sample_per_row: bool,
    ) -> None:
        """If `one_sample_per_row` is true, rows that a resumed run skips are not tokenized."""
        self.rows, self.batch_size, self.num_samples = rows, batch_size, num_samples
        self.lengths = cast(np.ndarray, StreamLengths(self))
        self._tokenized, self._one_sample_per_row = tokenized, one_sample_per_row
        self._begin()
        self.has(0)
        self.first_table = self._tables[0]
        self.fields = self.first_table.fields
        """The fields of the first rows, which are checked before a run."""
        self.fingerprint = self.first_table.fingerprint
        """A digest of the first rows."""

    def _begin(self) -> None:
        self._tables: deque[TokenTable] = deque()
        self._first = self._read_to = self._row = 0
        """The first sample in memory, the number of samples read, and the next row to read."""

    def rewind(self) -> None:
        """Start again with the first row."""
        if self._first:
            self.rows.rewind()
            self._begin()

    def padding_avoided(self, batch_size: int) -> float:
        return self.first_table.padding_avoided(batch_size)

    def __len__(self) -> int:
        return self.num_samples

    def has(self, sample: int) -> bool:
        """Whether the stream has this sample. Reads the stream up to it."""
        keep = kept_from(sample, self.batch_size)
        while self._read_to <= sample and (chunk := self._chunk()):
            if self._one_sample_per_row and self._read_to + len(chunk) <= keep:
                self._read_to += len(chunk)
                self._first, self._tables = self._read_to, deque()
                continue
            self._tables.append(self._tokenized(chunk))
            self._read_to += len(self._tables[-1])
            self._drop_before(keep)
        return sample < self._read_to

    def _chunk(self) -> list[Any]:
        """Read the next rows, and drop them from the stream's memory; an empty list at the end."""
        size = next((n for n in range(CHUNK, 0, -1) if self.rows.has(self._row + n - 1)), 0)
        chunk = [self.rows[self._row + n] for n in range(size)]
        self._row += size
        self.rows.forget_before(self._row)
        return chunk

    def _drop_before(self, keep: int) -> None:
        """Drop tables whose samples all come before `keep`, except the last table."""
        while len(self._tables) > 1 and self._first + len(self._tables[0]) <= keep:
            self._first += len(self._tables.popleft())

    def collate(
        self, sample_ids: Sequence[int] | np.ndarray, seed: int = 0, epoch: int | None = None
    ) -> FlatBatch:
        """A batch of these samples. Only the training thread may call it."""
        ids = np.asarray(sample_ids, dtype=np.int64)
        self.has(int(ids.max()))
        if int(ids.min()) < self._first:
            raise InputError(f"{self.rows.where}: sample {ids.min()} of the stream was dropped")
        return self._table().collate_as(ids - self._first, ids, seed, epoch)

    def placeholder(self) -> FlatBatch:
        return self.first_table.placeholder()

    def lengths_of(self, ids: np.ndarray) -> np.ndarray:
        """The number of tokens of each sample, for samples that are still in memory."""
        if not len(ids):
            return np.empty(0, np.int64)
        self.has(int(ids.max()))
        found: np.ndarray = self._table().lengths[ids - self._first]
        return found

    def _table(self) -> TokenTable:
        """One table of all samples in memory."""
        if len(self._tables) > 1:
            self._tables = deque([TokenTable.joined(list(self._tables))])
        return self._tables[0]


class HasLengths(Protocol):
    """A stream that knows the lengths of the samples that it has read."""

    def __len__(self) -> int: ...

    def lengths_of(self, ids: np.ndarray) -> np.ndarray:
        """The number of tokens of each sample, for samples that are still in memory."""
        ...


class StreamLengths:
    """The lengths of a stream's samples, with the interface of an array."""

    def __init__(self, stream: HasLengths) -> None:
        self._stream = stream

    def __len__(self) -> int:
        return len(self._stream)

    def __getitem__(self, ids: np.ndarray) -> np.ndarray:
        return self._stream.lengths_of(np.asarray(ids))


class StreamPlan(GlobalBatchPlan):
    """A plan whose global batches are consecutive samples of a stream.

    If the stream ends, the run ends. A resumed run reads the consumed rows again and drops them.
    """

    def __init__(self, samples: StreamSamples, seed: int, group_size: int = 1) -> None:
        first = np.ones(len(samples), dtype=np.int64)
        super().__init__(first, samples.batch_size, seed, group_size)
        self.lengths = samples.lengths
        self.samples = samples

    @property
    def steps_per_epoch(self) -> None:  # type: ignore[override]
        """None: the end of a stream is unknown."""
        return

    def samples_before(self, step: int) -> int:
        return step * self.global_batch_size

    def has_step(self, step: int) -> bool:
        """Whether there are samples for a step. Reads the stream up to the step's first sample."""
        return self.samples.has(step * self.global_batch_size)

    def global_batch(self, step: int) -> np.ndarray:
        start = step * self.global_batch_size
        stop = start + self.global_batch_size
        while stop > start and not self.samples.has(stop - 1):
            stop -= 1
        return np.arange(start, stop)

    def imbalance(self, world_size: int, micro_batch_size: int | None = None) -> float:
        return 0.0


def kept_from(sample: int, batch_size: int) -> int:
    """The first sample to keep in memory while the stream is read up to `sample`.

    Samples of earlier steps are kept too: an out-of-memory error is noticed a step late, and the
    step that failed is then repeated.
    """
    return (sample // batch_size - 3) * batch_size


def _from(rows: StreamRows, number: int) -> Iterator[Any]:
    while rows.has(number):
        yield rows[number]
        number += 1
