"""EarlySignals: what ends a process by a signal before there is anything to save."""

import os
import signal
import threading
import time
from types import FrameType
from typing import NoReturn

from trainer.console import plain_line

EARLY = (signal.SIGTERM, signal.SIGUSR1)
PATIENCE = 1.0
"""Seconds that a handler of Python's has to run before the process is left without it."""


def leave_unsaved() -> None:
    """From now on SIGTERM and SIGUSR1 end this process with a line and 143, until a run saves."""
    for number in EARLY:
        signal.signal(number, _leave)
    _watch_native_code()


def _watch_native_code() -> None:
    """Leave on these signals while native code runs too, which lets no handler of Python's run."""
    if threading.current_thread() is not threading.main_thread():
        return
    heard, told = os.pipe()
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    # a signal to a process that was forked from this one is none to this one
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
    threading.Thread(target=_listen, args=(heard,), daemon=True).start()


def _listen(heard: int) -> None:
    while numbers := os.read(heard, 64):
        time.sleep(PATIENCE)
        for number in numbers:
            if number in EARLY and signal.getsignal(number) is _leave:
                _leave(number, None)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """A queue that sent it starts the job again."""
    plain_line(f"stopped by {signal.Signals(number).name}: not saved")
    os._exit(143)
