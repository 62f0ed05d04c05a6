"""RankLog: writes the warnings of a rank other than 0 to rank-<n>.log in the run's folder."""

import logging
import time
from pathlib import Path

from trainer.checkpoint import files
from trainer.redaction import redacted_text
from trainer.terminal.plain_text import one_line


class RankLog(logging.Handler):
    """Appends each record as a line; the first record creates the file."""

    def __init__(self, folder: Path, rank: int) -> None:
        super().__init__()
        self.path = folder / f"rank-{rank}.log"

    def emit(self, record: logging.LogRecord) -> None:
        """Append one line with the time, level, logger and message of the record."""
        try:
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
            text = f"{when} {record.levelname} {record.name}: {record.getMessage()}"
            files.make_folder(self.path.parent)
            files.append_line(self.path, one_line(redacted_text(text)))
        except Exception:  # as in every logging handler, since a log must not stop a run
            self.handleError(record)


def log_to_file(folder: Path, rank: int) -> None:
    """Send this process's warnings to the rank's file instead of standard error."""
    logging.captureWarnings(True)
    logging.getLogger().addHandler(RankLog(folder, rank))
