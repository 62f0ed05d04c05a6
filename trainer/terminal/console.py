"""Console: prints results and errors for people, styled only on a terminal or in a notebook."""

import logging
import os
import sys
import textwrap
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from trainer.redaction import redacted_text
from trainer.terminal.plain_text import one_line, plain
from trainer.terminal.standard_streams import DUMB, LastingOutput, can_redraw

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

PLAIN_WIDTH = 100
"""The width, in characters, of output in a notebook or to a stream that is not a terminal."""
UNLIMITED = 10_000
"""A width in characters that no table exceeds."""
NOTEBOOKS = ("ZMQInteractiveShell", "Shell")
"""The classes of IPython's shell in Jupyter and in Colab."""


def make_console(stderr: bool = False) -> "Console":
    """Create a console for standard output or, with `stderr`, for standard error.

    If the stream is not a terminal, colors and cursor movements are left out. Output that cannot
    be written (the disk is full, the pipe is closed) is dropped, and a warning is logged.
    """
    from trainer.terminal.plain_console import PlainConsole

    stream: Any = LastingOutput("stderr" if stderr else "stdout")
    if in_notebook():
        return PlainConsole(
            force_jupyter=True, width=PLAIN_WIDTH, highlight=False, markup=False, emoji=False
        )
    if stream.isatty():
        return PlainConsole(
            file=stream,
            force_interactive=can_redraw(stream),
            highlight=False,
            markup=False,
            emoji=False,
        )
    return PlainConsole(
        file=stream,
        force_terminal=False,
        color_system=None,
        width=PLAIN_WIDTH,
        highlight=False,
        markup=False,
        emoji=False,
    )


def columns_of(console: "Console") -> int | None:
    """The width at which text must be wrapped, or None if it must not be wrapped."""
    return console.width if is_watched(console) else None


def is_watched(console: "Console") -> bool:
    """Whether a person sees the output: on a terminal or in a notebook, not in a file or a pipe."""
    return console.is_terminal or console.is_jupyter


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ in NOTEBOOKS


def show(console: "Console", renderable: "RenderableType") -> None:
    """Print without wrapping long lines, so that paths and commands can be copied.

    A table that is wider than the terminal is not truncated either.
    """
    _widen_tables(console, renderable)
    console.print(renderable, crop=False)


def _widen_tables(console: "Console", renderable: "RenderableType") -> None:
    """Give each table the width that it needs."""
    from rich.console import Group
    from rich.measure import Measurement
    from rich.table import Table

    if isinstance(renderable, Group):
        for each in renderable.renderables:
            _widen_tables(console, each)
    elif isinstance(renderable, Table):
        unlimited = console.options.update(width=UNLIMITED)
        renderable.width = Measurement.get(console, unlimited, renderable).maximum


def error_line(message: str) -> None:
    """Print `error: <message>` as one line on standard error."""
    plain_line(message, "error: ")


def plain_line(message: str, prefix: str = "") -> None:
    """Print a message as one line on standard error, for example why a run was stopped.

    On a terminal, the message is wrapped between words, and the prefix is red.
    """
    stream = LastingOutput("stderr")
    text = folded(f"{prefix}{one_line(message)}")
    if prefix and _has_colours(stream):
        text = f"\x1b[1;31m{prefix}\x1b[0m{text.removeprefix(prefix)}"
    stream.write(f"{text}\n")
    stream.flush()


def _has_colours(stream: LastingOutput) -> bool:
    """Whether the stream is a terminal with colors (TERM is not dumb), and NO_COLOR is not set."""
    is_plain = os.environ.get("TERM") in DUMB or os.environ.get("NO_COLOR", "") != ""
    return stream.isatty() and not is_plain


def folded(line: str) -> str:
    """Wrap a line between words at the terminal's width, if standard error is a terminal."""
    columns = columns_of_stderr()
    if columns is None or len(line) <= columns:
        return line
    return textwrap.fill(
        line, columns, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


def columns_of_stderr() -> int | None:
    """The columns of standard error if it is a terminal, else None."""
    stream = LastingOutput("stderr")
    with suppress(OSError, ValueError):
        if stream.isatty():
            return os.get_terminal_size(stream.fileno()).columns or None
    return None


def shown(text: str) -> str:
    """Untrusted text for standard output: escaped on a terminal, unchanged elsewhere."""
    return plain(text) if LastingOutput("stdout").isatty() else text


def plain_logs(rewritten: Callable[[str], str] = lambda line: line) -> None:
    """Format warnings as plain lines of limited length, if no logging handler is configured.

    `rewritten` changes each line first.
    """
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(PlainFormatter(rewritten=rewritten))


class PlainFormatter(logging.Formatter):
    """Formats a log record as one line without secrets."""

    def __init__(
        self, form: str | None = None, rewritten: Callable[[str], str] = lambda line: line
    ) -> None:
        """`rewritten` changes each line, for example paths that the user does not know."""
        super().__init__(form)
        self._rewritten = rewritten

    def format(self, record: logging.LogRecord) -> str:
        """Return the message as one line; a traceback keeps its line breaks."""
        text = super().format(record)
        lines = text.split("\n") if record.exc_info else [text]
        lines = [self._rewritten(line) for line in lines]
        return "\n".join(folded(one_line(redacted_text(line))) for line in lines)
