"""Settings lock: lets one thread at a time set a backend's truncation and padding, then encode.

The settings belong to the backend, so without the lock one thread could encode with the settings of
another. All tokenizers share one lock: each call to a backend uses all cores anyway.
"""

import os
import threading
from contextlib import AbstractContextManager

_lock = threading.RLock()


def settings_lock() -> AbstractContextManager[bool]:
    """The lock that a thread holds while it sets a backend's options and encodes texts."""
    return _lock


def _renew() -> None:
    """Replace the lock in a forked process, where a thread that held it no longer exists."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
