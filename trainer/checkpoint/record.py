"""StepLog: a file of JSON lines, such as metrics.jsonl; on resume, later rows are removed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.checkpoint import files


class StepLog:
    """Rows with a step. After any number of resumes they equal those of an uninterrupted run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row; numbers that are not finite become null."""
        files.append_line(self.path, json.dumps(files.finite_or_null(row), allow_nan=False))

    def sync(self) -> None:
        """Flush the rows to the disk before a checkpoint, so that they survive a power failure."""
        if self.path.exists():
            files.fsync_file(self.path)

    def rows(self) -> list[dict[str, Any]]:
        """The rows so far; `cut_back` must have removed incomplete lines."""
        found = files.read_bytes(self.path) if self.path.exists() else b""
        return [json.loads(line) for line in found.splitlines()]

    def rows_until(self, step: int) -> list[dict[str, Any]]:
        """The rows with a step up to this one; other lines, and incomplete ones, are left out."""
        found = files.read_bytes(self.path) if self.path.exists() else b""
        return [json.loads(line) for line in _lines(found) if _belongs(line, step)]

    def cut_back(self, step: int) -> None:
        """Drop rows after `step`, and a line that a crash left incomplete; -1 drops all."""
        if not self.path.exists():
            return
        found = files.read_bytes(self.path)
        kept = b"".join(line for line in _lines(found) if _belongs(line, step))
        if kept != found:
            files.write_bytes(self.path, kept)


def _lines(content: bytes) -> list[bytes]:
    return content.splitlines(keepends=True)


def _belongs(line: bytes, step: int) -> bool:
    try:
        row = json.loads(line)
        return line.endswith(b"\n") and row["step"] <= step
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
