"""Host memory: how much of it this process may still take."""

from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def available_bytes() -> int:
    """Bytes that may be allocated before the machine, or the container, has to swap or kill."""
    import psutil

    left = max(0, min([psutil.virtual_memory().available, *_left_in_containers()]))
    return left + _cached_for_gpus()


def _cached_for_gpus() -> int:
    """Page-locked memory that torch keeps for its next copies: the system counts it as used."""
    import torch

    found = torch.cuda.host_memory_stats()
    allocated = found.get("allocated_bytes.current", 0)
    return max(0, allocated - found.get("active_bytes.current", 0))


def _left_in_containers() -> Iterator[int]:
    """What each control group (version 2) around this process, which may have a limit, leaves."""
    for folder in _own_groups():
        try:
            limit, used = ((folder / name).read_text() for name in ("memory.max", "memory.current"))
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            continue
        if limit.strip() != "max":
            # pages of files count as used, though the kernel gives them up when asked
            yield int(limit) - int(used) + int(stat.get("inactive_file", 0))


def _own_groups() -> Iterator[Path]:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        if line.startswith("0::"):
            own = CGROUPS / line.removeprefix("0::").strip().lstrip("/")
            yield own
            yield from (parent for parent in own.parents if parent.is_relative_to(CGROUPS))
