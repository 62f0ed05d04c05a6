"""Standard streams: lets a run continue if they are closed, or if writing to them fails."""

import codecs
import errno
import io
import json
import logging
import os
import sys
from contextlib import suppress
from typing import TextIO

from trainer.errors import EnvironmentFault

logger = logging.getLogger("trainer")

NAMES = {"stdout": "standard output", "stderr": "standard error"}
GONE = (errno.EPIPE, errno.EBADF, errno.EIO)
"""The errors after which writing to the stream can never succeed again."""

DUMB = ("dumb", "unknown")
"""The values of TERM for terminals that do not support escape sequences."""

DEFAULTS = ("strict", "surrogateescape")
"""The error handlers that Python gives to standard output, depending on the locale."""

_closed: set[str] = set()
"""The streams that were closed when the process started."""
_reported: set[str] = set()
"""The streams whose loss has been logged."""


class LastingOutput:
    """Standard output or standard error. If writing fails, the run continues without it.

    Only the first failure is logged. Later writes are still tried, because a full disk may have
    room again.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def write(self, text: str) -> int:
        """Write a text, or drop it if writing fails; returns the length of the text."""
        stream = self._stream
        if stream is not None:
            with _failures_logged(self.name):
                stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush; output that cannot be written is dropped."""
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
        """The stream's file descriptor. Raises OSError if it has none."""
        stream = self._stream
        if stream is None:
            raise OSError(errno.EBADF, f"{NAMES[self.name]} is closed")
        return stream.fileno()

    @property
    def encoding(self) -> str:
        """The stream's encoding."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    @property
    def _stream(self) -> TextIO | None:
        """The current stream; if a progress bar has replaced it, the original one."""
        stream = getattr(sys, self.name)
        return getattr(stream, "rich_proxied_file", stream)


class _failures_logged:
    """Context manager that suppresses the errors of a stream and logs the first of them."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> bool:
        # a closed stream raises ValueError; encoding errors are faults of the caller, so raise them
        closed = isinstance(error, ValueError) and not isinstance(error, UnicodeError)
        if not isinstance(error, OSError) and not closed:
            return False
        if isinstance(error, OSError) and error.errno in GONE:
            _discard(self.name)
        if self.name not in _reported:
            _reported.add(self.name)
            reason = getattr(error, "strerror", None) or str(error)
            text = "%s: %s; the run continues, and its output is lost"
            logger.warning(text, NAMES[self.name], reason)
        return True


def can_redraw(stream: TextIO | LastingOutput | None) -> bool:
    """Whether lines of a stream can be redrawn.

    This is true for terminals that support escape sequences, except in CI: some CI services give
    a job a terminal, but show its output as a file.
    """
    with suppress(ValueError):  # the stream is closed
        if stream is not None and stream.isatty():
            return os.environ.get("TERM") not in DUMB and not _in_ci()
    return False


def show_cursor() -> None:
    """Remove a progress bar and show the cursor again, for a process that ends abruptly."""
    for descriptor in (1, 2):
        with suppress(OSError):
            if os.isatty(descriptor) and can_redraw(sys.stderr if descriptor == 2 else sys.stdout):
                os.write(descriptor, b"\r\x1b[2K\x1b[?25h")
                return


def _in_ci() -> bool:
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


def open_closed_streams() -> None:
    """Connect closed standard streams (`>&-`) to os.devnull.

    Must run before any file is opened. A file gets the lowest free descriptor; if this were the
    descriptor of a standard stream, printed text would end up in the file.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is not None:  # the stream was open when Python started
            continue
        reads = name == "stdin"
        descriptor = os.open(os.devnull, os.O_RDWR)  # gets the stream's descriptor if it is free
        setattr(sys, name, os.fdopen(descriptor, "r" if reads else "w", closefd=False))
        _closed.add(name)
        if name == "stdout":
            logger.warning("standard output is closed; the run continues, and its output is lost")
    _escape_unencodable_text()


def _escape_unencodable_text() -> None:
    """Print characters that standard output cannot encode as JSON escapes.

    Otherwise, with a locale encoding other than UTF-8, a label in another script would end the run.
    Answers are JSON lines, which stay valid. An error handler that the user chose is kept.
    """
    codecs.register_error("tempering_json", _as_json)
    chosen = os.environ.get("PYTHONIOENCODING", "").partition(":")[2]
    if isinstance(sys.stdout, io.TextIOWrapper) and not chosen and sys.stdout.errors in DEFAULTS:
        sys.stdout.reconfigure(errors="tempering_json")


def _as_json(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


def require_output() -> None:
    """Raise EnvironmentFault if standard output was closed, since the answers would be lost."""
    if "stdout" in _closed:
        accepted = "accepted: output.file=FILE, or an open standard output"
        raise EnvironmentFault(f"standard output is closed, and the answers go there; {accepted}")


def flush_or_drop() -> None:
    """Flush standard output and error, and drop what cannot be written.

    Otherwise Python would try to flush them at exit, fail, and exit with code 120.
    """
    for name in NAMES:
        stream = getattr(sys, name)
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            _discard(name)


def _discard(name: str) -> None:
    """Send the stream's buffered text and all further output to os.devnull."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, getattr(sys, name).fileno())
        os.close(nowhere)
