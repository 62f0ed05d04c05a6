"""RankLog: the warnings of a rank that does not print, in rank-<n>.log of the run's folder."""

import logging
import time
from pathlib import Path

from trainer.checkpoint import files
from trainer.plain_text import one_line
from trainer.redaction import redacted_text


class RankLog(logging.Handler):
    """Appends each record as a line; the file is made by the first one."""

    def __init__(self, folder: Path, rank: int) -> None:
        super().__init__()
        self.path = folder / f"rank-{rank}.log"

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line: when, how grave, who, what."""
        try:
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
            text = f"{when} {record.levelname} {record.name}: {record.getMessage()}"
            files.make_folder(self.path.parent)
            files.append_line(self.path, one_line(redacted_text(text)))
        except Exception:  # as every handler of logging: a log never stops a run
            self.handleError(record)


def log_to_file(folder: Path, rank: int) -> None:
    """From now on this process's warnings go to its file instead of standard error."""
    logging.captureWarnings(True)
    logging.getLogger().addHandler(RankLog(folder, rank))
