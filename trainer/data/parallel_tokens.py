"""Parallel tokens: tokenizes rows in several processes, each with limited memory."""

import ctypes
import os
import signal
import sys
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from trainer.checkpoint import files
from trainer.data.array_files import array_pieces, map_array, write_array
from trainer.data.token_arrays import (
    ROWS_PER_CALL,
    Part,
    Work,
    arrays_of,
    check_names,
    finished,
    joined,
    part_of,
    typed_as,
)
from trainer.errors import EnvironmentFault, InputError
from trainer.tasks.recipe import Recipe
from trainer.terminal.counted import counted

CALLS_PER_PIECE = 8
"""The number of recipe calls whose results a worker holds in memory before it writes them."""
AHEAD = 2
"""The number of pieces per worker that are submitted before the oldest one is collected."""


@dataclass(frozen=True)
class PieceReport:
    """A worker's report on a piece (a group of consecutive rows), whose arrays are in files."""

    start: int
    """The first row of the piece"""
    shapes: Mapping[str, tuple[tuple[int, ...], str]]
    """Name of an array -> its shape and type"""
    counts: Mapping[str, int]
    """The counts of `Part`"""
    reasons: Mapping[int, str]
    """Index of a dropped row -> the reason"""
    fault: str = ""
    """The message of an InputError; empty if there was none"""


_inherited: tuple[Work, Path] | None = None
"""The rows to tokenize and the folder for the results; forked workers inherit this variable."""


def num_processes(requested: int | None) -> int:
    """The number of workers: `requested`, or if it is None, the number of available cores."""
    if requested is not None:
        return requested
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def arrays_made_in(
    folder: Path, processes: int, work: Work, progress: bool
) -> Iterator[dict[str, np.ndarray]]:
    """A context that yields the same arrays as `arrays_of`, made by several processes.

    A worker has at most CALLS_PER_PIECE * ROWS_PER_CALL rows in memory. The arrays are
    memory-mapped from files in `folder`, which is removed at the end of the context. Raises
    InputError for a bad row, and EnvironmentFault if a worker is killed. On systems other than
    Linux, the arrays are made in this process.
    """
    global _inherited
    if processes == 1 or sys.platform != "linux" or len(work.rows) <= ROWS_PER_CALL:
        yield arrays_of(work, progress)
        return
    files.make_folder(folder, private=True, fresh=True)
    _inherited = work, folder
    try:
        made = _run(work, processes, progress)
        yield finished(_assembled(made, folder, work.recipe), work)
    finally:
        _inherited = None
        with suppress(EnvironmentFault):
            files.remove_folder(folder)


def _run(work: Work, processes: int, progress: bool) -> list[PieceReport]:
    """The reports on all pieces, in order."""
    calls = -(-len(work.rows) // ROWS_PER_CALL)
    size = max(1, min(CALLS_PER_PIECE, -(-calls // processes))) * ROWS_PER_CALL
    starts = range(0, len(work.rows), size)
    found: list[PieceReport] = []
    pending: deque[Future[PieceReport]] = deque()
    number = min(processes, len(starts))
    pool = ProcessPoolExecutor(number, get_context("fork"), _set_up_worker, (os.getpid(),))
    try:
        for start in counted(starts, f"tokenizing {work.where}") if progress else starts:
            pending.append(pool.submit(_piece, start, size))
            if len(pending) > AHEAD * processes:
                found.append(_checked(pending.popleft()))
        found += map(_checked, pending)
    except BrokenProcessPool:
        killed = "a worker process was killed (out of memory?)"
        accepted = "accepted: more memory, or a smaller prepare.processes"
        raise EnvironmentFault(f"{work.where}: {killed}; {accepted}") from None
    finally:
        pool.shutdown(cancel_futures=True)
    return found


def _checked(future: "Future[PieceReport]") -> PieceReport:
    made = future.result()
    if made.fault:
        raise InputError(made.fault)
    return made


def _set_up_worker(parent: int) -> None:
    """Prepare a worker: it ends with its parent, ignores Ctrl-C and tokenizes in one thread."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(3)


def _piece(start: int, size: int) -> PieceReport:
    """Tokenize `size` rows from `start` on and write their arrays to files. Runs in a worker."""
    assert _inherited is not None
    work, folder = _inherited
    try:
        stop = min(start + size, len(work.rows))
        parts = [part_of(work, first) for first in range(start, stop, ROWS_PER_CALL)]
        part = joined(parts, work.recipe)
    except InputError as error:
        return PieceReport(start, {}, {}, {}, str(error))
    for name, array in part.arrays.items():
        write_array(folder / f"{name}.{start}.npy", array)
    shapes = {name: (array.shape, array.dtype.str) for name, array in part.arrays.items()}
    return PieceReport(start, shapes, part.counts, part.reasons)


def _assembled(made: Sequence[PieceReport], folder: Path, recipe: Recipe) -> Part:
    """Join the pieces into one part, whose arrays are memory-mapped."""
    counts: Counter[str] = Counter()
    reasons: dict[int, str] = {}
    for piece in made:
        counts.update(piece.counts)
        reasons |= piece.reasons
    full = [piece for piece in made if piece.shapes]
    check_names([list(piece.shapes) for piece in full], recipe)
    names = list(full[0].shapes) if full else []
    return Part({name: _concatenated(name, full, folder) for name in names}, counts, reasons)


def _concatenated(name: str, made: Sequence[PieceReport], folder: Path) -> np.ndarray:
    """Join the arrays of all pieces into one file, and remove the files of the pieces."""
    shapes = [piece.shapes[name] for piece in made]
    dtype = typed_as(name, [np.dtype(kind) for _, kind in shapes])
    inner = {shape[1:] for shape, _ in shapes}
    if len(inner) > 1:
        field = name.removeprefix("field.")
        raise InputError(f"recipe: features made '{field}' of different widths")
    shape = (sum(shape[0] for shape, _ in shapes), *inner.pop())

    def arrays() -> Iterator[np.ndarray]:
        for piece in made:
            part = folder / f"{name}.{piece.start}.npy"
            yield map_array(part).astype(dtype, copy=False)
            files.remove_file(part)

    target = folder / f"{name}.npy"
    files.write_pieces(target, array_pieces(arrays(), shape, dtype))
    return map_array(target)
