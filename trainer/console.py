"""Console: standard output for people, plain where nobody watches, and the one error line."""

import logging
import os
from typing import TYPE_CHECKING, Any

from trainer.plain_text import one_line, plain
from trainer.redaction import redacted_text
from trainer.standard_streams import LastingOutput

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

PLAIN_WIDTH = 100
"""Columns of standard output where it is not a terminal."""


def make_console(stderr: bool = False) -> "Console":
    """Standard output, or error; without a terminal it gets no colours and no cursor movements.

    What cannot be written, since the stream is full or nobody reads it, is dropped and logged.
    """
    from trainer.plain_console import PlainConsole

    stream: Any = LastingOutput("stderr" if stderr else "stdout")
    if stream.isatty():
        return PlainConsole(file=stream, highlight=False, markup=False, emoji=False)
    return PlainConsole(
        file=stream,
        force_terminal=False,
        color_system=None,
        width=PLAIN_WIDTH,
        highlight=False,
        markup=False,
        emoji=False,
    )


def show(console: "Console", renderable: "RenderableType") -> None:
    """Print, leaving long lines (paths, commands) whole, to be copied as they are."""
    console.print(renderable, crop=False)


def error_line(message: str) -> None:
    """`error: <message>` as one line on standard error, wrapped nowhere."""
    coloured = LastingOutput("stderr").isatty() and "NO_COLOR" not in os.environ
    plain_line(message, "\x1b[1;31merror:\x1b[0m " if coloured else "error: ")


def plain_line(message: str, prefix: str = "") -> None:
    """A message as one line on standard error, such as why a run was stopped."""
    stream = LastingOutput("stderr")
    stream.write(f"{prefix}{one_line(message)}\n")
    stream.flush()


def shown(text: str) -> str:
    """What others wrote, for standard output: plain on a terminal, and as it is in a pipe."""
    return plain(text) if LastingOutput("stdout").isatty() else text


def plain_logs() -> None:
    """From now on warnings that no other handler takes are plain, bounded lines too."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(PlainFormatter())


class PlainFormatter(logging.Formatter):
    """The message of a record, as one line without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback keeps its lines."""
        text = super().format(record)
        lines = text.split("\n") if record.exc_info else [text]
        return "\n".join(one_line(redacted_text(line)) for line in lines)
