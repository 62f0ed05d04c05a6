"""CPU threads: how many a process may run, and how they wait for each other."""

import math
import os
from pathlib import Path

SPINS = "5000"
"""Rounds that a thread of GNU's OpenMP waits awake at a barrier before it sleeps.

The library's own 300,000 (some milliseconds) keep a core busy that another process could use, or
even the thread that is waited for: benchmarks/busy_cpu.py measures both.
"""
CHOSEN = "TEMPERING_OPENMP"
"""The variable with the names of those that we set, for this process and those that it starts."""


def prepare_threads() -> None:
    """Set OpenMP's variables to what suits this process; what the user has set stays.

    OpenMP reads them once, when torch is imported, so this must run before.
    """
    chosen = {}
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        chosen["GOMP_SPINCOUNT"] = SPINS
    limit = cpu_quota()
    # without a limit torch's own choice stays: one thread for each physical core of the affinity
    if limit is not None and max(1, math.floor(limit)) < _physical_cores():
        chosen["OMP_NUM_THREADS"] = str(max(1, math.floor(limit)))
    _choose(chosen)


def openmp_of_rank(threads: int) -> dict[str, str]:
    """OpenMP's variables for a rank that shares its machine with others; the user's values stay.

    Its `threads` threads sleep at barriers: one that spins keeps the core from another rank.
    """
    found = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
    found = {name: set_by_user(name) or value for name, value in found.items()}
    if "GOMP_SPINCOUNT" in _chosen():
        found["GOMP_SPINCOUNT"] = "0"  # this one overrules the policy
    return found


def set_by_user(name: str) -> str | None:
    """A variable of the environment, unless we have set it ourselves."""
    return None if name in _chosen() else os.environ.get(name)


def _chosen() -> list[str]:
    return os.environ.get(CHOSEN, "").split(",")


def _choose(chosen: dict[str, str]) -> None:
    ours = {name: value for name, value in chosen.items() if name not in os.environ}
    if ours:
        os.environ.update(ours)
        os.environ[CHOSEN] = ",".join([*filter(None, _chosen()), *ours])


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
