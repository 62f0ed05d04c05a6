"""DroppedRows: writes dropped.jsonl, which lists the rows that a run left out as invalid."""

import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from trainer.checkpoint import files
from trainer.checkpoint.record import StepLog
from trainer.data.read_options import BadRow

MOST_STREAMED = 10_000
"""The largest number of rows of a stream to list; a stream has no end."""

logger = logging.getLogger("trainer")


class DroppedRows:
    """The file dropped.jsonl of a run.

    The invalid rows of data sets that are read whole are known when a run starts. Those of a stream
    are added during training, each with its step. A resumed run removes the rows after its
    checkpoint, so the file is the same as that of an uninterrupted run.
    """

    def __init__(self, path: Path) -> None:
        self._log = StepLog(path)
        self._streamed = 0

    def begin(self, rows: Sequence[BadRow], step: int) -> None:
        """Write the rows known at the start, and keep the rows of a stream up to `step`."""
        path = self._log.path
        before = self._log.rows_until(step)
        self._streamed = len(before)
        if rows or path.exists():
            entries = [*(row.to_json() for row in rows), *before]
            files.write_text(path, "".join(f"{_line(entry)}\n" for entry in entries))

    def add(self, rows: Iterable[tuple[int, BadRow]]) -> None:
        """Add rows of a stream, each with the step in which training reached it."""
        for step, row in rows:
            if self._streamed == MOST_STREAMED:
                found = f"lists the first {MOST_STREAMED:,} dropped rows of the stream"
                logger.warning("dropped.jsonl: %s, and no more", found)
            if self._streamed < MOST_STREAMED:
                files.append_line(self._log.path, _line({"step": step, **row.to_json()}))
            self._streamed += 1

    def sync(self) -> None:
        """Make the rows so far survive a power failure; called before a checkpoint."""
        self._log.sync()

    def continue_from(self, folder: Path) -> None:
        """Copy the rows of the run in another folder, whose checkpoint this run continues."""
        rows = folder / self._log.path.name
        if rows.exists():
            files.write_bytes(self._log.path, files.read_bytes(rows))


def _line(entry: object) -> str:
    return json.dumps(entry, ensure_ascii=False, default=str)
