"""Workers: processes that decode and tokenize pieces of a stream before training needs them."""

import os
import signal
import threading
import time
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from typing import TypeAlias

from trainer.data.preprocessing import samples_of
from trainer.data.read_options import BadRow, BadRows, NoSamples
from trainer.data.row_locations import location_of
from trainer.data.streaming.decoding import Decoder
from trainer.data.streaming.pieces import PIECE_ROWS
from trainer.data.streaming.raw_rows import RawRows
from trainer.data.tokens import TokenTable
from trainer.errors import EnvironmentFault, InputError
from trainer.tasks.processor import Processor
from trainer.tasks.recipe import Recipe

MAX_WORKERS = 4
"""The largest number of workers that a process starts by default."""


@dataclass
class NoTable:
    """The result of tokenizing a piece in which no row gives a sample."""

    dropped: list[BadRow]
    """The rows that were dropped, with the reasons."""


Made: TypeAlias = TokenTable | NoTable


@dataclass(frozen=True)
class Work:
    """Decodes and tokenizes raw rows; a worker process receives a copy."""

    decoder: Decoder
    recipe: Recipe
    processor: Processor | None
    bad_rows: str
    max_bad_rows: float

    def tokenized(self, raw: RawRows) -> Made:
        """The token table of these rows, without `augment`; NoTable if no row gives a sample.

        Raises InputError for bad rows.
        """
        bad = BadRows(self.bad_rows, limit=1.0)
        found = self._made(raw, bad)
        found.dropped = [*bad.dropped, *found.dropped]
        self._check_limit(found.dropped, len(raw))
        return found

    def _made(self, raw: RawRows, bad: BadRows) -> Made:
        where = "dataset.train"
        try:
            rows = self.decoder.table(raw, bad, where, are_all=False)
        except NoSamples:  # `bad` has the reasons
            return NoTable([])
        try:
            table = samples_of(rows, self.recipe, self.processor, where=where, bad_rows=bad)
        except NoSamples as error:
            reasons = error.reasons.items()
            return NoTable([BadRow(location_of(rows, n, where), r, rows[n]) for n, r in reasons])
        if not isinstance(table, TokenTable):
            found = f"the samples of {type(self.recipe).__name__} are not tokens"
            raise InputError(f"dataset.streaming: {found}; accepted: false")
        table.augment = None  # a function cannot be sent to another process
        return table

    def _check_limit(self, dropped: list[BadRow], total: int) -> None:
        """Raise InputError if more rows of a piece were dropped than the limit allows.

        A shorter piece, in which a single bad row may be a large share, may drop as many rows as a
        full piece.
        """
        if len(dropped) > self.max_bad_rows * PIECE_ROWS:
            BadRows(self.bad_rows, self.max_bad_rows).check("dataset.train", dropped, total)


class Workers:
    """Tokenizes raw rows in `number` processes, or in the caller's thread if `number` is 0.

    The processes take seconds to start. Until the first is ready, the caller's thread tokenizes.
    """

    def __init__(self, work: Work, number: int) -> None:
        self._work, self._pool = work, None
        self._begun: list[Future[None]] = []
        if number:
            self._pool = ProcessPoolExecutor(
                number,
                get_context("spawn"),
                initializer=_prepare_process,
                initargs=(work, os.getpid()),
            )
            self._begun = [self._pool.submit(_begun) for _ in range(number)]

    def submit(self, raw: RawRows) -> "Future[Made]":
        """A future for the token table of these rows."""
        if self._pool is not None and any(each.done() for each in self._begun):
            try:
                return self._pool.submit(_tokenized, raw)
            except BrokenProcessPool as error:
                raise _lost() from error
        found: Future[Made] = Future()
        try:
            found.set_result(self._work.tokenized(raw))
        except Exception as error:
            found.set_exception(error)
        return found

    def close(self) -> None:
        """Stop the processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


def result_of(found: "Future[Made]") -> Made:
    """Wait for the table. Raises EnvironmentFault if the worker was killed."""
    try:
        return found.result()
    except BrokenProcessPool as error:
        raise _lost() from error


def automatic_number() -> int:
    """The default number of workers: this rank's share of the cores minus 1, up to MAX_WORKERS."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(0, min(MAX_WORKERS, (cores or 1) // ranks - 1))


def _lost() -> EnvironmentFault:
    found = "a worker process was killed, perhaps because memory ran out"
    return EnvironmentFault(f"dataset.num_workers: {found}; accepted: fewer, or 0 for none")


_work: list[Work] = []
"""The `Work` of this process if it is a worker; otherwise empty."""


def _prepare_process(work: Work, parent: int) -> None:
    """Prepare a worker process: it ignores signals, and ends when its parent ends."""
    import torch

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a worker uses a single thread
    torch.set_num_threads(1)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _work.append(work)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _begun() -> None:
    """Do nothing; this first task completes as soon as a worker process is ready."""


def _tokenized(raw: RawRows) -> Made:
    return _work[0].tokenized(raw)
