"""RunRecord: reads the files that a run has written so far, for reports."""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from trainer.checkpoint import files
from trainer.checkpoint.publish import published
from trainer.errors import EnvironmentFault, InputError
from trainer.foreign.numbers import is_number
from trainer.reports import facts
from trainer.reports.facts import Facts

Row = Mapping[str, Any]
"""A line of metrics.jsonl."""
ABOUT_STEPS = ("step", "epoch", "samples", "tokens")
"""The keys that every row has."""


@dataclass(frozen=True)
class RunRecord:
    """The content of a run's folder."""

    folder: Path
    name: str
    facts: Facts | None
    """The content of facts.json; None for a run of an earlier version of this program."""
    rows: Sequence[Row]
    results: Mapping[str, Any] = field(default_factory=dict)
    """The content of results.json; empty if the run has not finished."""

    @classmethod
    def read(cls, folder: Path) -> "RunRecord":
        """Read a run's folder. Raises InputError if it contains no run or unreadable files."""
        lines = _lines(folder / "metrics.jsonl")
        rows = [r for r in lines if isinstance(r.get("step"), int) and is_number(r["step"])]
        found = _read_json(folder / facts.FILE)
        if not rows and not found:
            raise InputError(f"{folder}: holds no run; accepted: the output_dir of one")
        known = _facts(folder / facts.FILE, found) if found else None
        name = known.name if known else folder.name
        record = cls(folder, name, known, rows, _read_json(folder / "results.json"))
        return record if record._is_finished else cls(folder, name, known, rows)

    @property
    def _is_finished(self) -> bool:
        """Whether results.json describes the whole run.

        If a finished run is continued with more steps, results.json is outdated until the run
        finishes again.
        """
        steps = self.results.get("steps")
        if not isinstance(steps, int) or steps < self.last_step:
            return False
        total = self.facts.total_steps if self.facts else steps
        return steps >= total or bool(self.results.get("stopped"))

    @property
    def last_step(self) -> int:
        """The last logged step."""
        return max((row["step"] for row in self.rows), default=0)

    @cached_property
    def training(self) -> list[Row]:
        """The rows with training metrics."""
        return [row for row in self.rows if "loss" in row]

    @cached_property
    def evaluations(self) -> list[Row]:
        """The rows with results of evaluations."""
        return [row for row in self.rows if any(key.startswith("eval_") for key in row)]

    @property
    def sets(self) -> list[str]:
        """The names of the evaluation sets; the name is '' for a single set without a name."""
        return list(self.facts.eval_sets) if self.facts else [""]

    @cached_property
    def checkpoints(self) -> dict[int, Path]:
        """Step -> the folder of the step's checkpoint."""
        return dict(sorted(published(self.folder).items()))

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The resolved config from facts.json or, in runs of earlier versions, config.yaml."""
        if self.facts:
            return self.facts.config
        import yaml

        path = self.folder / "config.yaml"
        try:
            found = yaml.safe_load(files.read_bytes(path))
        except FileNotFoundError:
            return {}
        except (EnvironmentFault, yaml.YAMLError, RecursionError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{path}: not readable ({reason})") from None
        return found if isinstance(found, dict) else {}

    def predictions(self, name: str) -> Iterator[dict[str, Any]]:
        """Yield the predictions for an evaluation set, or nothing if the run has not finished."""
        file = f"predictions-{name}.jsonl" if name else "predictions.jsonl"
        if Path(file).name != file:
            raise InputError(f"{self.folder / facts.FILE}: eval_sets: found {name!r:.80}")
        if self.results:
            yield from _lines(self.folder / file)

    def lines(self, name: str) -> Iterator[dict[str, Any]]:
        """Yield the objects in a JSON Lines file of the folder, or nothing if it does not exist."""
        return _lines(self.folder / name)

    def points(self, key: str) -> list[tuple[float, float]]:
        """(step, value) for every row that has the key; values that were not finite become NaN."""
        found = []
        for row in self.rows:
            if key in row:
                value = row[key]
                found.append((row["step"], float(value) if is_number(value) else math.nan))
        return found


def _facts(path: Path, found: Mapping[str, Any]) -> Facts:
    try:
        return Facts.of_json(found)
    except (TypeError, LookupError, AttributeError) as error:
        raise InputError(f"{path}: not what this program writes ({error})") from None


def _read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if the file does not exist."""
    try:
        found = json.loads(files.read_bytes(path))
    except FileNotFoundError:
        return {}
    except (EnvironmentFault, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable ({error})") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: found no object; accepted: what this program writes")
    return found


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects in a JSON Lines file, if it exists; an incomplete last line is ignored."""
    if not os.path.lexists(path):
        return
    try:
        descriptor = files.open_regular(path, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"{path}: not readable ({error.strerror})") from None
    with open(descriptor, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                found = json.loads(line)
            except (ValueError, RecursionError) as error:
                if not line.endswith(b"\n"):
                    return
                raise InputError(f"{path}: line {number}: not readable ({error})") from None
            if isinstance(found, dict):
                yield found
