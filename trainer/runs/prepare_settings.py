"""Settings of the jobs that fill and prune the token cache."""

import math
from dataclasses import dataclass

from trainer.errors import InputError
from trainer.option_types import Options


@dataclass(frozen=True)
class PrepareSettings(Options, where="prepare"):
    """The settings with which job=prepare fills the token cache and writes its report."""

    processes: int | None = None
    """The number of worker processes, which read a few thousand rows at a time; null: one per core.
    """
    near_copies: bool = True
    """Whether to look for nearly equal samples, within sets and between them."""
    report: str | None = None
    """A JSON file to write the report to; null: only print the report."""

    def __post_init__(self) -> None:
        if self.processes is not None and self.processes < 1:
            found = f"found {self.processes}"
            raise InputError(f"prepare.processes: {found}; accepted: 1 or more, or null")


@dataclass(frozen=True)
class PruneSettings(Options, where="prune"):
    """The entries that job=prune removes from the token cache; entries in use are kept."""

    days: float | None = 30.0
    """Remove entries that were not used for this many days; null: remove none by age."""
    max_gib: float | None = None
    """Remove the least recently used entries until the others fit in this size; null: set no limit.
    """
    dry_run: bool = False
    """Whether to only list what would be removed."""

    def __post_init__(self) -> None:
        for name in ("days", "max_gib"):
            found = getattr(self, name)
            if found is not None and not (found >= 0 and math.isfinite(found)):
                raise InputError(f"prune.{name}: found {found}; accepted: 0 or more, or null")
