"""Pipeline: tokenizes the pieces of a stream before training needs them, and returns them in order.

A thread reads pieces, and workers tokenize them. A piece is some consecutive rows. Each rank
tokenizes only its share of the pieces; the ranks then exchange their token tables. So the order is
the same on any number of ranks, and with more ranks each one tokenizes less. Parquet shards are
divided into windows, and a rank reads only the windows that it tokenizes: it skips row groups that
are entirely in other windows.
"""

import json
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from trainer.data.read_options import BadRow
from trainer.data.streaming import pieces as pieces_file
from trainer.data.streaming.pieces import Piece, Place
from trainer.data.streaming.workers import Made, NoTable, Work, Workers, result_of
from trainer.data.tokens import TokenTable
from trainer.devices.ranks import Ranks
from trainer.errors import EnvironmentFault, InputError
from trainer.plurals import plural

log = logging.getLogger("trainer")

AHEAD = 4
"""The number of pieces to read ahead per worker, or for the process if it has no workers."""

LONGEST_ROW = 10_000
"""The maximum number of characters of a dropped row that are kept."""

Fault = InputError | EnvironmentFault
Coming = tuple[Place, "Future[Made] | None"]
"""A piece's position in the stream, and its result; None if another rank tokenizes the piece."""


class Pipeline:
    """Makes token tables. All ranks must call `start` and `next` in the same order."""

    def __init__(
        self,
        read: Callable[[Place], Iterator[Piece]],
        work: Work,
        num_workers: int,
        ranks: Ranks,
        dealt_rows: int | None = None,
    ) -> None:
        """With `dealt_rows`, each window of this many rows is read by a single rank (`owner_of`).

        Without it, every rank reads all rows, and the ranks tokenize the pieces in turn.
        """
        self._read, self._work, self._num_workers, self._ranks = read, work, num_workers, ranks
        self._dealt = dealt_rows is not None
        self._depth = max(1, num_workers) * AHEAD * ranks.world_size
        if dealt_rows is not None:  # so that each rank always works on a window of its own
            self._depth += ranks.world_size * -(-dealt_rows // pieces_file.PIECE_ROWS)
        self._thread: ThreadPoolExecutor | None = None
        self._workers: Workers | None = None

    def start(self, place: Place) -> None:
        """Start, or start again, with the piece at this position in the stream."""
        self._stop()
        self._workers = self._workers or Workers(self._work, self._num_workers)
        self._number = 0
        self._ready: deque[tuple[Place, Made]] = deque()
        self._coming: deque[Future[Coming]] = deque()
        self._pieces = self._read(place)
        self._thread = ThreadPoolExecutor(1, "stream")
        self._read_ahead(self._ranks.world_size)  # `next` reads further ahead

    def next(self) -> tuple[Place, Made]:
        """The position of the next piece, and its token table; NoTable if it has no samples.

        If a rank fails, all ranks raise its InputError or EnvironmentFault.
        """
        if not self._ready:
            self._exchange()
            self._read_ahead(self._depth - len(self._coming))
        return self._ready.popleft()

    def close(self) -> None:
        """Stop reading, and stop the workers."""
        self._stop()
        if self._workers is not None:
            self._workers.close()
            self._workers = None

    def _stop(self) -> None:
        if self._thread is not None:
            for coming in self._coming:
                coming.cancel()
            self._thread.shutdown()
            self._pieces.close()  # type: ignore[attr-defined]  # the generator closes its files
            self._thread = None

    def _read_ahead(self, number: int) -> None:
        assert self._thread is not None
        self._coming.extend(self._thread.submit(self._read_piece) for _ in range(number))

    def _read_piece(self) -> Coming:
        """Read a piece, and submit it to a worker if it is this rank's turn to tokenize."""
        piece, number = next(self._pieces), self._number
        self._number += 1
        is_mine = self._dealt or number % self._ranks.world_size == self._ranks.rank
        assert self._workers is not None
        rows = piece.rows if is_mine else None
        return piece.place, None if rows is None else self._workers.submit(rows)

    def _exchange(self) -> None:
        """Add each rank's next piece to `_ready`; if windows are dealt, only the owner's piece."""
        places: list[Place] = []
        table: Made | None = None
        fault: Fault | None = None
        try:
            for _ in range(1 if self._dealt else self._ranks.world_size):
                place, made = self._coming.popleft().result()
                places.append(place)
                table = table if made is None else result_of(made)
        except (InputError, EnvironmentFault) as error:
            fault = error
        dropped = self._compare(fault, table)
        found = [NoTable([]) if table is None else table]
        if self._ranks.world_size > 1:
            own = table.to_arrays() if isinstance(table, TokenTable) else {}
            found = [self._received(arrays) for arrays in self._ranks.gather_arrays(own)]
        if self._dealt:
            owner = owner_of(places[0].cursor.window, self._ranks)
            found, dropped = [found[owner]], [dropped[owner]]
        for each, rows in zip(found, dropped, strict=True):
            each.dropped = rows
        self._ready.extend(zip(places, found, strict=True))

    def _received(self, arrays: Mapping[str, np.ndarray]) -> Made:
        """The token table that a rank made from a piece, or NoTable if the piece has no samples."""
        recipe = self._work.recipe
        return TokenTable.of(arrays, recipe.fields, recipe.roles) if arrays else NoTable([])

    def _compare(self, fault: Fault | None, table: Made | None) -> list[list[BadRow]]:
        """Return the dropped rows of every rank's piece, and log them.

        Raises an error of any rank on all ranks.
        """
        is_input, text = isinstance(fault, InputError), str(fault or "")
        own = [] if table is None else [_as_json(row) for row in table.dropped]
        pieces = []
        for of_input, found, rows in self._ranks.gather([is_input, text, own]):
            if found:
                raise (InputError if of_input else EnvironmentFault)(found) from fault
            pieces.append([BadRow(**row) for row in rows])
            if rows and self._ranks.is_main:
                log.warning("dataset.train: %s", _dropped(pieces[-1]))
        return pieces


def owner_of(window: int, ranks: Ranks) -> int:
    """The rank that reads a window, if windows are dealt to the ranks."""
    return window % ranks.world_size


def _as_json(row: BadRow) -> Mapping[str, Any]:
    """A dropped row as JSON values; a long row is replaced by the beginning of its JSON text."""
    text = json.dumps(row.row, ensure_ascii=False, default=str)
    cells = json.loads(text) if len(text) <= LONGEST_ROW else f"{text[:LONGEST_ROW]}..."
    return {**row.to_json(), "row": cells}


def _dropped(rows: Sequence[BadRow]) -> str:
    """A line about the dropped rows of a piece."""
    first, number = rows[0], plural(len(rows), "row")
    return f"{number} dropped, the first: {first.place}: {first.reason}"
