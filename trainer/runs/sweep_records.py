"""Sweep records: the values and the result of each job of a sweep, in one JSON file per job."""

import fcntl
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trainer.checkpoint import files
from trainer.foreign.numbers import is_number

logger = logging.getLogger("trainer")

STATUS = {
    None: "not started",
    0: "done",
    2: "wrong input",
    3: "environment failed",
    4: "numbers failed",
    130: "stopped",
    143: "stopped",
}
"""The status of a job in the table, by exit code."""
FINAL = (0, 4)
"""Exit codes after which a job is not run again, since it would end in the same way."""


@dataclass(frozen=True)
class JobRecord:
    """One job of a sweep."""

    label: str
    values: Mapping[str, str]
    """The job's values of the keys in which the jobs differ."""
    output_dir: str
    config: str = ""
    """A digest of the job's config."""
    number: int = 0
    """The job's position in the order in which jobs were started."""
    exit_code: int | None = None
    """The job's exit code; None if it was not started, or was killed."""
    pruned: bool = False
    """Whether the job was ended early, since others were better."""
    metric: str = ""
    value: float | None = None
    greater_is_better: bool = True
    step: int | None = None
    """The step of the model with this value."""

    @property
    def status(self) -> str:
        """The job's status in a few words."""
        if self.pruned:
            return "pruned"
        return STATUS.get(self.exit_code, f"failed ({self.exit_code})")

    @property
    def is_final(self) -> bool:
        """Whether the job need not run again."""
        return self.pruned or self.exit_code in FINAL


@dataclass(frozen=True)
class Records:
    """The records of one sweep, in a separate folder."""

    folder: Path
    names: frozenset[str] = field(default=frozenset(JobRecord.__dataclass_fields__))

    def read(self) -> list[JobRecord]:
        """All records, in the order in which the jobs were started."""
        found = [self._read(path) for path in sorted(self.folder.glob("*.json"))]
        return sorted((r for r in found if r is not None), key=lambda r: (r.number, r.label))

    def get(self, label: str) -> JobRecord | None:
        """The record of one job, if there is one."""
        return self._read(self.folder / f"{label}.json")

    def put(self, record: JobRecord) -> None:
        """Write or replace the record of one job."""
        files.make_folder(self.folder)
        files.write_json(self.folder / f"{record.label}.json", asdict(record))

    @contextmanager
    def locked(self, label: str) -> Iterator[None]:
        """Context manager for one process at a time per job; other processes wait."""
        files.make_folder(self.folder)
        descriptor = files.open_regular(self.folder / f"{label}.lock", os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _read(self, path: Path) -> JobRecord | None:
        try:
            found = json.loads(files.read_bytes(path))
            return JobRecord(**{key: found[key] for key in self.names})
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            logger.warning("%s: not what this program writes (%s); ignored", path, error)
            return None


@dataclass(frozen=True)
class Objective:
    """The evaluation result that a sweep compares."""

    name: str
    """The name of the result without "eval_", such as accuracy."""
    greater_is_better: bool
    longer: tuple[str, ...] = ()
    """Other results whose names end with this one, such as balanced_accuracy."""

    def is_meant(self, key: str) -> bool:
        """Whether a result of an evaluation ("eval_matched_accuracy") is this one."""
        ends = (f"_{name}" for name in self.longer)
        return f"_{key}".endswith(f"_{self.name}") and not key.endswith(tuple(ends))

    def key_of(self, results: Iterable[str]) -> str | None:
        """The key of this result: the one without a set's name if there is one, else the first."""
        found = [key for key in results if key.startswith("eval_") and self.is_meant(key)]
        whole = f"eval_{self.name}"
        return whole if whole in found else next(iter(found), None)

    def best(self, points: list[tuple[int, float]]) -> tuple[int, float] | None:
        """The best of (step, value) pairs."""
        sign = 1 if self.greater_is_better else -1
        return max(points, key=lambda point: sign * point[1], default=None)


def evaluations(output_dir: Path, objective: Objective) -> list[tuple[int, float]]:
    """The (step, value) pairs of the evaluations that a job has logged so far."""
    try:
        lines = (output_dir / "metrics.jsonl").read_bytes().splitlines()
    except OSError:
        return []
    found: dict[int, float] = {}
    for row in filter(None, map(_row, lines)):
        key = objective.key_of(row)
        if key is not None and is_number(row[key]):
            found.setdefault(row["step"], float(row[key]))
    return sorted(found.items())


def _row(line: bytes) -> dict[str, Any] | None:
    """A line of metrics.jsonl; None for a line that is still being written."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None
