"""Device memory: measures the memory of a device, and reserves some of it."""

import os
import resource
import sys

import psutil
import torch

GIB = 1 << 30
HAVE_OWN_MEMORY = ("cuda", "xpu")
"""Types of devices that have their own memory and raise an error when it is full."""


def memory_left(device: torch.device) -> int:
    """The bytes that this process can still allocate on a device with its own memory."""
    free, total = torch.accelerator.get_memory_info(device)
    held = torch.accelerator.memory_reserved(device)
    if device.type == "cuda":  # a process may be limited to a share of the memory
        share = torch.cuda.get_per_process_memory_fraction(device.index)
        free = min(free, int(share * total) - held)
    return max(0, free + held - torch.accelerator.memory_allocated(device))


def memory_used(device: torch.device) -> tuple[int, int]:
    """The bytes of a device's memory that this process uses now, and the maximum so far.

    For a device without its own memory, the bytes of host memory. This does not wait for the
    device.
    """
    if device.type in HAVE_OWN_MEMORY:
        now = torch.accelerator.memory_allocated(device)
        return now, torch.accelerator.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    now = psutil.Process().memory_info().rss
    return now, max(now, most if sys.platform == "darwin" else most << 10)


def free_cached_memory(device: torch.device) -> None:
    """Return unused memory that the allocator holds to the device."""
    if device.type != "cpu":
        torch.accelerator.empty_cache()


def room(num_bytes: int, device: torch.device) -> torch.Tensor:
    """A tensor of `num_bytes`, which reserves memory for as long as it is referenced."""
    return torch.empty(num_bytes, dtype=torch.uint8, device=device)


def memory_of_a_rank(device: torch.device) -> int:
    """The bytes that a rank may use: its device's memory, or its share of the machine's."""
    own = total_memory(device)
    if own is not None:
        return own
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return whole // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def total_memory(device: torch.device) -> int | None:
    """The bytes of a device's own memory; None for a device without its own memory."""
    if device.type not in HAVE_OWN_MEMORY:
        return None
    properties = torch.get_device_module(device).get_device_properties(device)
    return int(properties.total_memory)
