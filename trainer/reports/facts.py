"""Facts: describes a run before its first step, for reports; stored in facts.json."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import numpy as np

from trainer.checkpoint import files
from trainer.redaction import without_environment

FILE = "facts.json"
KINDS: Mapping[str, type[Any]] = {
    **dict.fromkeys(("name", "task", "best_metric"), str),
    **dict.fromkeys(("total_steps", "greater_is_better"), int),
    **dict.fromkeys(("summary", "eval_sets", "directions", "class_counts", "truncated"), dict),
    **dict.fromkeys(("environment", "config", "defaults"), dict),
    "answer_columns": list,
}
"""Key of facts.json -> the type of its value."""
NUM_BINS = 24
"""The maximum number of bins in a histogram."""


@dataclass(frozen=True)
class Histogram:
    """A histogram of whole numbers; bin i counts numbers n with edges[i] <= n < edges[i + 1]."""

    edges: Sequence[float]
    counts: Sequence[int]
    mean: float
    longest: int
    total: int

    @classmethod
    def of(cls, numbers: np.ndarray) -> Self:
        """Count numbers [N], N > 0, in at most NUM_BINS bins of equal width."""
        low, high = int(numbers.min()), int(numbers.max())
        width = max(1, -(-(high - low + 1) // NUM_BINS))
        counts = np.bincount((numbers - low) // width)
        edges = [low + width * number for number in range(len(counts) + 1)]
        return cls(edges, counts.tolist(), float(numbers.mean()), high, int(numbers.sum()))


@dataclass(frozen=True)
class Start:
    """A start of the run: the first start, or one that resumed the run."""

    time: str
    """The time in UTC, such as 2026-01-31 12:00:00."""
    step: int
    device: str
    num_processes: int
    ended: str = ""
    """How the run ended after this start, in words; empty while it is running or if its process was
    killed."""


@dataclass(frozen=True)
class Facts:
    """The data that reports need in addition to the metrics, predictions and results of a run."""

    name: str
    task: str
    starts: Sequence[Start]
    summary: Mapping[str, str]
    """The lines of the start summary: label -> text."""
    total_steps: int
    eval_sets: Mapping[str, int]
    """Evaluation set -> number of samples; the key is '' for a single set without a name."""
    best_metric: str
    greater_is_better: bool
    directions: Mapping[str, bool]
    """Name of an evaluation result -> whether a greater value is better."""
    answer_columns: Sequence[str] = ()
    class_counts: Mapping[str, int] = field(default_factory=dict)
    lengths: Mapping[str, Histogram] = field(default_factory=dict)
    """Data set -> histogram of the numbers of tokens in its samples."""
    truncated: Mapping[str, int] = field(default_factory=dict)
    """Data set -> number of rows that were truncated to the maximum length."""
    environment: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    """The resolved config, with secrets redacted."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Dotted key of a setting -> default value, for settings with a known default."""

    def write(self, folder: Path) -> None:
        """Write facts.json, which only this user can read."""
        files.write_bytes(
            folder / FILE, files.json_bytes(without_environment(asdict(self))), private=True
        )

    @classmethod
    def of_json(cls, value: Mapping[str, Any]) -> Self:
        """Make the facts from the parsed content of facts.json.

        Unknown keys, which later versions may write, are ignored. Raises TypeError, LookupError or
        AttributeError if the content has another form.
        """
        known = {each.name for each in fields(cls)}
        known_entries = {key: entry for key, entry in value.items() if key in known}
        for key, kind in KINDS.items():
            if not isinstance(known_entries.get(key, kind()), kind):
                raise TypeError(f"{key}: found {type(known_entries[key]).__name__}")
        lengths = {
            name: Histogram(**found) for name, found in known_entries.get("lengths", {}).items()
        }
        starts = [Start(**start) for start in known_entries["starts"]]
        return cls(**{**known_entries, "lengths": lengths, "starts": starts})
