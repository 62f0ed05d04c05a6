"""Process groups: creates further groups of ranks, with launch.timeout as their timeout."""

from collections.abc import Sequence
from datetime import timedelta

import torch.distributed as dist


def collective_timeout() -> timedelta:
    """The timeout of the group of all ranks, to pass to new groups, which do not inherit it."""
    world = dist.group.WORLD
    assert world is not None
    backend = world._get_backend(world._device_types[0])
    found: timedelta = backend.options._timeout
    return found


def own_group(members: Sequence[Sequence[int]]) -> dist.ProcessGroup:
    """Create a group for each list of ranks; return this rank's group. Every rank must call it."""
    lists = [list(ranks) for ranks in members]
    own, _ = dist.new_subgroups_by_enumeration(lists, timeout=collective_timeout())
    return own


def host_group() -> dist.ProcessGroup:
    """Create a second group of all ranks, for tensors on the CPU. Every rank must call it."""
    return dist.new_group(backend="gloo", timeout=collective_timeout())
