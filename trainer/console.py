"""Console: standard output for people, plain where nobody watches, and the one error line."""

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

PLAIN_WIDTH = 100
"""Columns of standard output where it is not a terminal."""


def make_console(stderr: bool = False) -> "Console":
    """Standard output, or error; without a terminal it gets no colours and no cursor movements."""
    from rich.console import Console

    if (sys.stderr if stderr else sys.stdout).isatty():
        return Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    return Console(
        stderr=stderr,
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
    coloured = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    prefix = "\x1b[1;31merror:\x1b[0m" if coloured else "error:"
    print(prefix, " ".join(message.split()), file=sys.stderr)
