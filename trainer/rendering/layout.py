"""Layout: labeled lines and tables of numbers, without truncation."""

import textwrap
from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

NARROWEST = 16
"""The minimum width, in characters, of the texts beside the labels."""
SPACE = "\u00a0"
"""A non-breaking space."""


def labelled(lines: Mapping[str, str], width: int | None = None) -> Text:
    """Format `lines` (label -> text) with each text to the right of its label.

    If a text has several lines, they are aligned below each other. Lines are wrapped to `width`,
    the columns of a terminal; without it they are not wrapped, so that commands and paths can be
    copied.
    """
    indent = max(map(len, lines), default=0) + 2
    formatted = Text(no_wrap=True, overflow="ignore", end="\n")
    for label, text in lines.items():
        for number, line in enumerate(_wrapped(text, width, indent)):
            formatted.append(f"{'' if number else label:<{indent}}", style="dim").append(
                f"{line}\n"
            )
    formatted.rstrip()
    return formatted


def flowed(pieces: Sequence[Text], width: int | None, indent: int) -> Text:
    """Join the pieces with two spaces; a piece that exceeds `width` starts a new, indented line."""
    line, column = Text(no_wrap=True, overflow="ignore"), 0
    for piece in pieces:
        if column and width is not None and column + 2 + piece.cell_len > width:
            line.append(f"\n{' ' * indent}")
            column = indent
        elif column:
            line.append("  ")
            column += 2
        line.append_text(piece)
        column += piece.cell_len
    return line


def _wrapped(text: str, width: int | None, indent: int) -> list[str]:
    lines = text.split("\n")
    room = None if width is None else max(NARROWEST, width - indent)
    if room is not None and max(map(len, lines)) > room:
        wrap = textwrap.TextWrapper(room, break_long_words=False, break_on_hyphens=False)
        lines = [piece for line in lines for piece in wrap.wrap(line) or [""]]
    return [line.replace(SPACE, " ") for line in lines]


def numbers_table(*headers: str) -> Table:
    """Create a table without frames; the first column is left-aligned, the others right-aligned."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for number, header in enumerate(headers):
        table.add_column(header, justify="right" if number else "left", no_wrap=True)
    return table
