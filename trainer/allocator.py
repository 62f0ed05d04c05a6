"""Keep freed memory in the process: without it every CPU step faults its activations in again."""

import ctypes
import platform

M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
ONE_GIB = 1 << 30


def keep_freed_memory() -> None:
    """Tell glibc not to give big freed blocks back to the kernel; elsewhere do nothing.

    A padding-free CPU training step became 1.1 to 1.2 times faster by it.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_THRESHOLD, ONE_GIB)
    libc.mallopt(M_TRIM_THRESHOLD, ONE_GIB)
