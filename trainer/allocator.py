"""What the process keeps: freed memory, few kernels, and segments of GPU memory that grow."""

import ctypes
import os
import platform

M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
KEPT = 1 << 30
"""Bytes of free memory that go back to the kernel only beyond this."""
MAPPED = 1 << 26
"""A block of so many bytes is mapped on its own: few are, and for them no hole is ever found."""
KERNELS = 128
"""Matrix products that are kept ready: one is made in well under a millisecond, and no two steps
without padding have the same."""


def keep_freed_memory() -> None:
    """Tell glibc not to give freed blocks back to the kernel; elsewhere do nothing.

    A padding-free CPU training step became 1.1 to 1.2 times faster by it. Gradients of large
    embeddings, tens of megabytes each, are left out: SmolLM2 then needs 0.3 GB less.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_THRESHOLD, MAPPED)
    libc.mallopt(M_TRIM_THRESHOLD, KEPT)


def give_back_freed_memory() -> None:
    """Have glibc return to the kernel what is free between blocks in use; elsewhere do nothing."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def keep_few_kernels() -> None:
    """Have oneDNN and torch's layer over it keep few of the kernels that they make for each shape.

    They keep 1024 each, at some 0.6 MB: SmolLM2 grew by 12 MB with each step. To be called before
    the first product of the process; what the user has set stays.
    """
    for cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(cache, str(KERNELS))


def let_segments_grow() -> None:
    """Have the allocators of GPUs extend their segments, unless the user has set them up.

    Micro batches differ in size at every step: in segments of fixed sizes, holes are left over that
    nothing else fits. To be called before the first allocation on a GPU.
    """
    if not {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & os.environ.keys():
        os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
