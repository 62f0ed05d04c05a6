"""Progress bars of training and evaluation, which fit on one line of a terminal of any width."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.progress import Progress, ProgressColumn, Task
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from trainer.rendering.figures import clock
from trainer.terminal.bars import make_bar

SHORTEST_BAR = 6
"""The minimum width of the bar itself; if there is less room, the bar is left out."""
RESERVED, WIDE = 3, 60
"""On terminals of at least WIDE columns, RESERVED columns stay empty, so that an echoed ^C does
not begin a new line."""


@dataclass(frozen=True)
class Piece:
    """A part of the line. On a narrow terminal, the pieces with the largest ranks are left out."""

    rank: int
    text: str | None
    """None stands for the bar itself; a piece with an empty text is left out."""
    style: str = ""

    @property
    def columns(self) -> int:
        """The width of the piece; for the bar, its minimum width."""
        return SHORTEST_BAR if self.text is None else cell_len(self.text)


@dataclass(frozen=True)
class BarLine:
    """Shows the pieces that fit on the line, in their order; the bar fills the rest of the line."""

    pieces: Sequence[Piece]
    completed: float
    total: float

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        reserved = RESERVED if options.max_width >= WIDE else 0
        return Measurement(1, options.max_width - reserved)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        fitting = self.fitting(options.max_width)
        rest = options.max_width - sum(piece.columns + 1 for piece in fitting) + 1
        line = Table.grid(padding=(0, 1), pad_edge=False)
        cells: list[RenderableType] = []
        for piece in fitting:
            line.add_column(no_wrap=True)
            if piece.text is None:
                width = SHORTEST_BAR + max(0, rest)
                bar = ProgressBar(self.total, self.completed, width=width)
                bar.complete_style = bar.finished_style = "cyan"
                cells.append(bar)
            else:
                cells.append(Text(piece.text, style=piece.style))
        line.add_row(*cells)
        yield line

    def fitting(self, width: int) -> list[Piece]:
        """The pieces that fit in `width` columns, in their order."""
        chosen: list[Piece] = []
        room = width + 1  # the first piece needs no space before it
        for piece in sorted(self.pieces, key=lambda piece: piece.rank):
            if piece.text != "" and piece.columns + 1 <= room:
                chosen.append(piece)
                room -= piece.columns + 1
        return [piece for piece in self.pieces if piece in chosen]


class _Line(ProgressColumn):
    """Shows the whole line of a task as a single column."""

    def __init__(self, pieces: Callable[[Task], Sequence[Piece]]) -> None:
        super().__init__()
        self.pieces = pieces

    def render(self, task: Task) -> BarLine:  # type: ignore[override]
        """The current line of the task."""
        return BarLine(self.pieces(task), task.completed, task.total or 1)


def training_bar(console: Console, first_step: int, total_steps: int) -> Progress:
    """Create a bar with one task; the bar disappears when it is stopped.

    The task's fields are texts: `epoch`, `loss`, `speed`, `wait`, `memory` and `peak`.
    """
    bar = _bar(console, _training_pieces)
    fields: dict[str, Any] = dict.fromkeys(("epoch", "speed", "wait", "memory", "peak"), "")
    bar.add_task("", completed=first_step, total=total_steps, loss="loss -", **fields)
    return bar


def evaluation_bar(console: Console, total: int) -> Progress:
    """Create a bar with one task, which has the text fields `speed` and `left`."""
    bar = _bar(console, _evaluation_pieces)
    bar.add_task("", total=total, speed="", left="")
    return bar


def _bar(console: Console, pieces: Callable[[Task], Sequence[Piece]]) -> Progress:
    return make_bar(console, _Line(pieces))


def _training_pieces(task: Task) -> Sequence[Piece]:
    fields, remaining = task.fields, task.time_remaining
    return (
        Piece(3, fields["epoch"]),
        Piece(0, f"{task.completed:,.0f}/{task.total:,.0f}", "green"),
        Piece(4, None),
        Piece(2, fields["loss"]),
        Piece(5, fields["speed"]),
        Piece(6, fields["wait"], "yellow"),
        Piece(7, fields["memory"], "dim"),
        Piece(8, fields["peak"], "dim"),
        Piece(1, f"{'-:--' if remaining is None else clock(remaining)} left", "cyan"),
    )


def _evaluation_pieces(task: Task) -> Sequence[Piece]:
    left = task.fields["left"]
    return (
        Piece(2, "evaluating"),
        Piece(0, f"{task.completed:,.0f}/{task.total:,.0f}", "green"),
        Piece(3, None),
        Piece(4, task.fields["speed"]),
        Piece(1, f"{left} left" if left else "", "cyan"),
    )
