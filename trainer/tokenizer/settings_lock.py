"""Settings lock: threads take turns in setting a backend's truncation and padding and encoding.

The settings belong to the backend, so without turns one thread would encode with the settings of
another. The lock is for all tokenizers: each call of a backend uses all cores anyway.
"""

import os
import threading
from contextlib import AbstractContextManager

_lock = threading.RLock()


def settings_lock() -> AbstractContextManager[bool]:
    """The lock that a thread holds from setting a backend until the texts are encoded."""
    return _lock


def _renew() -> None:
    """Replace the lock in a forked process, where a thread that held it does not exist."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
