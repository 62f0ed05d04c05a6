"""Host memory: how much this process can still allocate."""

from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def available_bytes() -> int:
    """The bytes that can be allocated before the machine swaps or a container kills the process."""
    import psutil

    left = max(0, min([psutil.virtual_memory().available, *_left_in_containers()]))
    return left + _cached_for_gpus()


def _cached_for_gpus() -> int:
    """The page-locked bytes that torch caches for copies, which the system counts as used."""
    import torch

    found = torch.cuda.host_memory_stats()
    allocated = found.get("allocated_bytes.current", 0)
    return max(0, allocated - found.get("active_bytes.current", 0))


def _left_in_containers() -> Iterator[int]:
    """The bytes left in each control group (version 2) of this process that has a limit."""
    for folder in _own_groups():
        try:
            limit, used = ((folder / name).read_text() for name in ("memory.max", "memory.current"))
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            continue
        if limit.strip() != "max":
            # cached pages of files count as used, though the kernel reclaims them when needed
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
