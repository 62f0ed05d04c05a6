"""StepLog: metrics.jsonl and its like, one JSON object a line, cut back where a run resumes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.checkpoint import files


class StepLog:
    """Rows of a run on one step axis; they read as one run however often it resumed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row; numbers that are not finite become null."""
        files.append_line(self.path, json.dumps(files.finite_or_null(row), allow_nan=False))

    def sync(self) -> None:
        """Make the rows so far survive a power failure: before a checkpoint that follows them."""
        if self.path.exists():
            files.fsync_file(self.path)

    def cut_back(self, step: int) -> None:
        """Drop the rows after `step` and lines that a crash left half written; -1 drops all."""
        if not self.path.exists():
            return
        found = files.read_bytes(self.path)
        kept = b"".join(line for line in found.splitlines(keepends=True) if _belongs(line, step))
        if kept != found:
            files.write_bytes(self.path, kept)


def _belongs(line: bytes, step: int) -> bool:
    try:
        row = json.loads(line)
        return line.endswith(b"\n") and row["step"] <= step
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
