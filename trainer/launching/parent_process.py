"""Parent process: ends this process when its parent ends, even if the parent is killed."""

import ctypes
import os
import signal
import sys
import threading
import time

PARENT = "TEMPERING_PARENT"
"""The environment variable with the process id of the process that started this one."""
PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """End this process when the process whose id is in PARENT ends; do nothing if PARENT is unset.

    PARENT is removed from the environment.
    """
    parent = int(os.environ.pop(PARENT, "0"))
    if not parent:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent ended before the call above
            os._exit(3)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(3)
