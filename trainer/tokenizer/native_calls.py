"""Native calls: turns a panic of the library `tokenizers` into an exception that prints nothing.

Rust's panic hook writes to file descriptor 2 before Python receives the panic. So during a call the
descriptor is redirected to a file in memory. Afterwards the file's contents, without the hook's
output, are written to the descriptor.
"""

import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

PANIC = re.compile(rb"\n?thread '[^\n]*panicked at .*", re.DOTALL)
"""The output of the panic hook: a message, perhaps a backtrace, and a note."""
STANDARD_ERROR = 2


class Panic(Exception):
    """The library panicked. It replaces pyo3's PanicException, which is not an `Exception`."""


@contextmanager
def native_call() -> Iterator[None]:
    """A context in which a panic of the library is raised as `Panic`, and Rust prints nothing.

    Other output to standard error, including that of other threads, is delayed until all concurrent
    calls have ended.
    """
    _capture.enter()
    panicked = False
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        panicked = True
        raise Panic(str(error)) from None
    finally:
        _capture.leave(panicked)


class _Capture:
    """Redirects standard error to a file while at least one call runs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls = 0
        self._panicked = False
        self._kept: BinaryIO | None = None
        self._standard_error = -1

    def enter(self) -> None:
        with self._lock:
            self._calls += 1
            if self._calls > 1:
                return
            try:
                self._standard_error = os.dup(STANDARD_ERROR)
            except OSError:  # standard error is closed, so nothing can be printed
                return
            self._kept = _memory_file()
            os.dup2(self._kept.fileno(), STANDARD_ERROR)

    def renew(self) -> None:
        """In a forked process, end the calls made by threads that do not exist there."""
        self._lock = threading.Lock()
        self._calls, self._panicked = 0, False
        if self._kept is not None:
            os.dup2(self._standard_error, STANDARD_ERROR)
            os.close(self._standard_error)
            self._kept.close()
            self._kept = None

    def leave(self, panicked: bool) -> None:
        with self._lock:
            self._calls -= 1
            self._panicked |= panicked
            if self._calls or self._kept is None:
                return
            os.dup2(self._standard_error, STANDARD_ERROR)
            os.close(self._standard_error)
            with self._kept as file:
                file.seek(0)
                written = file.read()
            self._kept = None
            if self._panicked:
                written = PANIC.sub(b"", written)
            self._panicked = False
            while written:
                written = written[os.write(STANDARD_ERROR, written) :]


def _memory_file() -> BinaryIO:
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("standard-error"), "r+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


_capture = _Capture()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_capture.renew)
