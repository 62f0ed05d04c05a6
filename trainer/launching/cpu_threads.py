"""CPU threads: how many a process uses, and how they wait for each other."""

import math
import os
from pathlib import Path

SPINS = "5000"
"""How often a thread of GNU's OpenMP checks a barrier before it sleeps.

With the library's default of 300,000 (several milliseconds), a waiting thread occupies a core that
another process, or even the awaited thread, could use. benchmarks/busy_cpu.py measures both cases.
"""
CHOSEN = "TEMPERING_OPENMP"
"""The environment variable that lists the OpenMP variables that this program has set.

Child processes read it, too.
"""


def prepare_threads() -> None:
    """Set OpenMP's variables for this process, except those that the user has set.

    Call this before torch is imported: OpenMP reads the variables once, during that import.
    """
    chosen = {}
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        chosen["GOMP_SPINCOUNT"] = SPINS
    limit = cpu_quota()
    # without a limit, torch's default applies: one thread for each physical core of the affinity
    if limit is not None and max(1, math.floor(limit)) < _physical_cores():
        chosen["OMP_NUM_THREADS"] = str(max(1, math.floor(limit)))
    _choose(chosen)


def openmp_of_rank(threads: int) -> dict[str, str]:
    """OpenMP's variables for a rank that shares its machine; values that the user set are kept.

    The rank's `threads` threads sleep at barriers: a thread that polls would take a core from
    another rank.
    """
    found = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
    found = {name: set_by_user(name) or value for name, value in found.items()}
    if "GOMP_SPINCOUNT" in _chosen():
        found["GOMP_SPINCOUNT"] = "0"  # SPINS would override the passive policy
    return found


def set_by_user(name: str) -> str | None:
    """The value of an environment variable; None if it is not set, or if this program set it."""
    return None if name in _chosen() else os.environ.get(name)


def _chosen() -> list[str]:
    return os.environ.get(CHOSEN, "").split(",")


def _choose(chosen: dict[str, str]) -> None:
    ours = {name: value for name, value in chosen.items() if name not in os.environ}
    if ours:
        os.environ.update(ours)
        os.environ[CHOSEN] = ",".join([*filter(None, _chosen()), *ours])


def usable_cores() -> int:
    """The number of cores that this process may use: its affinity, limited by its CPU quota."""
    limit = cpu_quota()
    cores = len(_affinity())
    return cores if limit is None else max(1, min(cores, math.floor(limit)))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """The CPU quota of this process's cgroups, in cores; None if there is no limit.

    Reads cgroups of versions 1 and 2, including all parent groups, since each may have a limit.
    """
    found = [
        limit
        for folder in _own_groups(root)
        if (limit := _limit_of(folder)) is not None and limit > 0
    ]
    return min(found, default=None)


def _own_groups(root: Path) -> list[Path]:
    """The folders of this process's cgroups and of their parents."""
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
    """The quota divided by the period of one cgroup, from cpu.max or the two files of version 1."""
    words = _read(folder / "cpu.max").split() or [
        _read(folder / "cpu.cfs_quota_us").strip(),
        _read(folder / "cpu.cfs_period_us").strip(),
    ]
    try:
        quota, period = (float(word) for word in words)
    except ValueError:  # the quota is "max", or there is no such file
        return None
    return quota / period if quota > 0 and period > 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _affinity() -> set[int]:
    """The logical cores that this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux
    return affinity(0) if affinity else set(range(os.cpu_count() or 1))


def _physical_cores() -> int:
    """The number of physical cores to which the logical cores of the affinity belong."""
    top = Path("/sys/devices/system/cpu")
    siblings = {
        _read(top / f"cpu{core}/topology/thread_siblings_list") or core for core in _affinity()
    }
    return len(siblings)
