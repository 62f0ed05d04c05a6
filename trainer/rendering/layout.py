"""Layout: the two shapes that everything is shown in, labelled lines and tables of numbers."""

from collections.abc import Mapping

from rich.table import Table
from rich.text import Text


def labelled(lines: Mapping[str, str]) -> Text:
    """`label  words`, a line each, further lines of words below the first; nothing is wrapped."""
    width = max(map(len, lines), default=0)
    text = Text(no_wrap=True, overflow="ignore", end="\n")
    for label, words in lines.items():
        for number, line in enumerate(words.split("\n")):
            text.append(f"{'' if number else label:<{width}}  ", style="dim").append(f"{line}\n")
    text.rstrip()
    return text


def numbers_table(*headers: str) -> Table:
    """A table without frames: names to the left, numbers to the right."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for number, header in enumerate(headers):
        table.add_column(header, justify="right" if number else "left", no_wrap=True)
    return table
