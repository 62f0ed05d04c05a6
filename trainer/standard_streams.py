"""Standard streams that may be closed, full, or no longer read by anyone."""

import errno
import logging
import os
import sys
from contextlib import suppress
from typing import TextIO

from trainer.errors import EnvironmentFault

logger = logging.getLogger("trainer")

NAMES = {"stdout": "standard output", "stderr": "standard error"}
GONE = (errno.EPIPE, errno.EBADF, errno.EIO)
"""The errors of a stream that nobody will read again."""

_closed: set[str] = set()
"""The streams that were closed when the process began."""
_told: set[str] = set()
"""The streams whose loss has been logged."""


class LastingOutput:
    """Standard output or error for what people watch: where it fails, the run goes on without it.

    The first failure is logged. A full disk may have room again, so later texts are tried too.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def write(self, text: str) -> int:
        """Write, or drop, a text."""
        stream = self._stream
        if stream is not None:
            with _failures_logged(self.name):
                stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush; what cannot be written is dropped."""
        stream = self._stream
        if stream is not None:
            with _failures_logged(self.name):
                stream.flush()

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        stream = self._stream
        with suppress(ValueError):
            return stream is not None and stream.isatty()
        return False

    def fileno(self) -> int:
        """The stream's descriptor. Raises OSError where there is none."""
        stream = self._stream
        if stream is None:
            raise OSError(errno.EBADF, f"{NAMES[self.name]} is closed")
        return stream.fileno()

    @property
    def encoding(self) -> str:
        """How texts become bytes."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    @property
    def _stream(self) -> TextIO | None:
        """The present stream; behind a progress bar that replaces it, the real one."""
        stream = getattr(sys, self.name)
        return getattr(stream, "rich_proxied_file", stream)


class _failures_logged:
    """Within it a failing stream is logged, once, and raises nothing."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> bool:
        # a closed Python stream is a ValueError; one of another encoding is the caller's
        closed = isinstance(error, ValueError) and not isinstance(error, UnicodeError)
        if not isinstance(error, OSError) and not closed:
            return False
        if isinstance(error, OSError) and error.errno in GONE:
            _discard(self.name)
        if self.name not in _told:
            _told.add(self.name)
            reason = getattr(error, "strerror", None) or str(error)
            text = "%s: %s; the run goes on, and its output is lost"
            logger.warning(text, NAMES[self.name], reason)
        return True


def open_closed_streams() -> None:
    """Give closed standard streams (`>&-`) something to read from or write to.

    Must run before anything opens a file: files get the lowest free numbers, and what is printed
    would land in one that got a standard stream's number.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is not None:  # Python found it open when it started
            continue
        reads = name == "stdin"
        descriptor = os.open(os.devnull, os.O_RDWR)  # gets the stream's number where that is free
        setattr(sys, name, os.fdopen(descriptor, "r" if reads else "w", closefd=False))
        _closed.add(name)
        if name == "stdout":
            logger.warning("standard output is closed; the run goes on, and its output is lost")


def require_output() -> None:
    """Raise EnvironmentFault where standard output was closed, and answers would be lost."""
    if "stdout" in _closed:
        accepted = "accepted: output.file=FILE, or an open standard output"
        raise EnvironmentFault(f"standard output is closed, and the answers go there; {accepted}")


def flush_or_drop() -> None:
    """Flush both streams before the process ends; else Python would complain, and exit with 120."""
    for name in NAMES:
        stream = getattr(sys, name)
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            _discard(name)


def _discard(name: str) -> None:
    """Let what is written to a stream from here on go nowhere, its pending text too."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, getattr(sys, name).fileno())
        os.close(nowhere)
