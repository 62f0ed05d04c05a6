"""CPU threads: how many a process may run, and how they wait for each other."""

import math
import os
from pathlib import Path

SPINS = "5000"
"""Rounds that an OpenMP thread of GNU's library waits awake at a barrier before it sleeps.

The library's own 300,000 (some milliseconds) take the core from the thread that is waited for where
other processes run: benchmarks/busy_cpu.py measures both.
"""


def prepare_threads() -> None:
    """Say to OpenMP, before it is loaded, what this process may use; the user's own words stay.

    It reads its variables when torch is imported: later they change nothing.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPINS
    limit = cpu_quota()
    # without a limit torch's own choice stays: one thread a physical core that we may run on
    if limit is not None and max(1, math.floor(limit)) < _physical_cores():
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, math.floor(limit))))


def usable_cores() -> int:
    """Cores that this process may use: by its affinity, and by the CPU time of its cgroup."""
    limit = cpu_quota()
    cores = len(_affinity())
    return cores if limit is None else max(1, min(cores, math.floor(limit)))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Cores' worth of CPU time that the cgroups of this process may use; None: no limit.

    Control groups of both versions, and every group above ours, since each has a limit of its own.
    """
    found = [
        limit
        for folder in _own_groups(root)
        if (limit := _limit_of(folder)) is not None and limit > 0
    ]
    return min(found, default=None)


def _own_groups(root: Path) -> list[Path]:
    """The folders of our control groups and of those above them."""
    text = _read(root / "proc/self/cgroup")
    found = []
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2) if line.count(":") >= 2 else ("", "-", "/")
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        group = top / path.lstrip("/")
        found += [folder for folder in (group, *group.parents) if folder.is_relative_to(top)]
    return found


def _limit_of(folder: Path) -> float | None:
    """quota / period of one group: cpu.max, or its two files in version 1."""
    words = _read(folder / "cpu.max").split() or [
        _read(folder / "cpu.cfs_quota_us").strip(),
        _read(folder / "cpu.cfs_period_us").strip(),
    ]
    try:
        quota, period = (float(word) for word in words)
    except ValueError:  # "max", or no such file
        return None
    return quota / period if quota > 0 and period > 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _affinity() -> set[int]:
    """The logical cores that we may run on."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux
    return affinity(0) if affinity else set(range(os.cpu_count() or 1))


def _physical_cores() -> int:
    """Of these, how many do not share a core with one before."""
    top = Path("/sys/devices/system/cpu")
    siblings = {
        _read(top / f"cpu{core}/topology/thread_siblings_list") or core for core in _affinity()
    }
    return len(siblings)
