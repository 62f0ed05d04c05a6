"""Early signals: how a signal ends the process before a run has anything to save."""

import os
import signal
import threading
import time
from types import FrameType

from trainer.terminal.console import plain_line
from trainer.terminal.standard_streams import show_cursor

EARLY = {signal.SIGTERM: 143, signal.SIGUSR1: 143, signal.SIGINT: 130}
"""A signal that ends the process at once -> the exit code. After 143, a job queue restarts the
job."""
PATIENCE = 1.0
"""Seconds to wait for Python's signal handler to run before a thread ends the process instead."""


_leaving = threading.Lock()
"""Held from the first call to `_leave` on."""
_watching: list[threading.Thread] = []
"""The thread that handles signals during native code, once it has been started."""


def leave_unsaved() -> None:
    """Make SIGTERM, SIGUSR1 and SIGINT end this process with one line and exit code 143 or 130.

    A run that can save replaces these handlers. A second call changes nothing.
    """
    for number in EARLY:
        if signal.getsignal(number) is not signal.SIG_IGN:  # e.g. `nohup` ignores signals
            signal.signal(number, _leave)
    if not _watching:
        _watch_native_code()


def raise_interrupts() -> None:
    """Make SIGINT raise KeyboardInterrupt again, so that unfinished work is cleaned up."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _watch_native_code() -> None:
    """End the process on these signals while native code keeps Python's handlers from running."""
    if threading.current_thread() is not threading.main_thread():
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    # a forked child shares the pipe: its signals must not reach this process
    os.register_at_fork(after_in_child=_stop_watching)
    _watching.append(threading.Thread(target=_listen, args=(reader,), daemon=True))
    _watching[0].start()


def _stop_watching() -> None:
    global _leaving
    _leaving = threading.Lock()  # another thread of the parent may have held the inherited one
    signal.set_wakeup_fd(-1)
    _watching.clear()


def _listen(reader: int) -> None:
    while numbers := os.read(reader, 64):
        # a run that saves handles its signals, and may end soon after it has done so
        ours = [number for number in numbers if _ends_process(number)]
        if not ours:
            continue
        time.sleep(PATIENCE)
        for number in filter(_ends_process, ours):
            _leave(number, None)


def _ends_process(number: int) -> bool:
    return number in EARLY and signal.getsignal(number) is _leave


def _leave(number: int, frame: FrameType | None) -> None:
    """End the process; only the first call does, as writing its line may take longer than PATIENCE.

    Further signals, and the thread that then loses its patience, would write the line again.
    """
    if not _leaving.acquire(blocking=False):
        return
    try:
        show_cursor()
        plain_line(f"stopped by {signal.Signals(number).name}: not saved")
    finally:  # standard error may be closed or in use; no other call would end the process
        os._exit(EARLY[signal.Signals(number)])
