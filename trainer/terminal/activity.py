"""Activity: shows what a command is doing until it has results to show.

On a terminal, the activity is one line on standard error, which is redrawn and finally removed.
Without a terminal, the jobs in LOGGED print a line on standard output for each activity that takes
longer than PRINT_AFTER seconds.
"""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

from trainer.terminal.plain_text import one_line
from trainer.terminal.standard_streams import LastingOutput, can_redraw

REDRAW_SECONDS = 0.2
"""Seconds between two redraws of the line."""
SHOW_TIME_AFTER = 2.0
"""After this many seconds, the line also shows how long the activity has lasted."""
PRINT_AFTER = 10.0
"""Without a terminal, an activity that has lasted this many seconds is printed."""
FRAMES = {True: "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", False: "|/-\\"}
"""The frames of the animation: True -> with Unicode, False -> in ASCII."""
ERASE = "\r\x1b[2K"
LOGGED = ("train", "evaluate", "export", "merge", "prepare", "push", "sweep")
"""The jobs, and the kind of command, that print their activities where there is no terminal."""


class _Display(Protocol):
    def show(self, text: str, progress: str) -> None: ...

    def close(self) -> None: ...


_display: _Display | None = None


@contextmanager
def of_command() -> Iterator[None]:
    """Context manager around a command: shows "reading the config" until the job begins."""
    begin("tempering")
    doing("reading the config")
    try:
        yield
    finally:
        done()


def begin(title: str) -> None:
    """Let `doing` show texts from now on, each prefixed with `title`, such as the job's name.

    Without a terminal, texts are shown only for the jobs in LOGGED. If the run has several ranks,
    only the first one shows texts.
    """
    global _display
    done()
    if not is_first_rank():
        return
    if can_redraw(sys.stderr):
        _display = _Line(title)
    elif title in LOGGED:
        _display = _Log(title)


def doing(text: str, progress: str = "") -> None:
    """Show what the command is doing now.

    Nothing is shown before `begin` is called, for example when the package is used from Python.
    `progress`, such as the number of processed rows, is shown only on terminals.
    """
    if _display is not None:
        _display.show(text, progress)


def is_shown() -> bool:
    """Whether `doing` shows anything."""
    return _display is not None


def done() -> None:
    """Remove the line, because results follow or the command ends. A second call does nothing."""
    global _display
    if _display is not None:
        _display.close()  # if Ctrl-C interrupts it, the next call closes it again
    _display = None


def is_first_rank() -> bool:
    """Whether this process prints for all ranks of its run."""
    return (os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or "0") == "0"


class _Log:
    """Prints an activity as a line on standard output once it has lasted PRINT_AFTER seconds.

    A command that fails within that time therefore prints no activity.
    """

    def __init__(self, title: str) -> None:
        self.title, self.text = title, ""
        self.timer: threading.Timer | None = None

    def show(self, text: str, progress: str) -> None:
        if text != self.text:
            self.close()
            self.text = text
            self.timer = threading.Timer(PRINT_AFTER, self._print, [text])
            self.timer.daemon = True
            self.timer.start()

    def close(self) -> None:
        if self.timer is not None:
            self.timer.cancel()

    def _print(self, text: str) -> None:
        stream = LastingOutput("stdout")
        stream.write(f"{one_line(f'{self.title}: {text}')}\n")
        stream.flush()


class _Line:
    """A line at the bottom of the terminal, which is erased before the process prints anything.

    The cursor is not hidden, so nothing has to be restored if the process is killed.
    """

    def __init__(self, title: str) -> None:
        self.title, self.text, self.progress = title, "", ""
        self.began = time.monotonic()
        self.drawn = False
        self.at_line_start = True
        self.lock = threading.RLock()  # a signal handler may print while the line is being drawn
        self.closed = threading.Event()
        self.streams = {name: getattr(sys, name) for name in ("stdout", "stderr")}
        self.terminal: TextIO = self.streams["stderr"]
        self.unicode = "utf" in str(getattr(self.terminal, "encoding", "")).lower()
        for name, stream in self.streams.items():
            if can_redraw(stream):
                setattr(sys, name, _ErasingStream(stream, self))
        threading.Thread(target=self._redraw, daemon=True).start()

    def show(self, text: str, progress: str) -> None:
        with self.lock:
            self.progress = progress
            if text != self.text:
                self.text, self.began = text, time.monotonic()
                self._draw()

    def close(self) -> None:
        self.closed.set()
        with self.lock:
            self.erase()
            for name, stream in self.streams.items():
                if isinstance(getattr(sys, name), _ErasingStream):
                    setattr(sys, name, stream)

    def erase(self) -> None:
        """Remove the line. Must be called before other text is printed."""
        if self.drawn:
            self._write(ERASE)
            self.drawn = False

    def _redraw(self) -> None:
        while not self.closed.wait(REDRAW_SECONDS):
            with self.lock:
                if not self.closed.is_set():
                    self._draw()

    def _draw(self) -> None:
        if self.text and self.at_line_start:
            text = f"{ERASE if self.drawn else ''}{self._text()}"
            self.drawn = True  # before it is: Ctrl-C may come as soon as the terminal shows it
            self._write(text)

    def _text(self) -> str:
        seconds = time.monotonic() - self.began
        frames = FRAMES[self.unicode]
        frame = frames[int(seconds / REDRAW_SECONDS) % len(frames)]
        elapsed = f" ({seconds:.0f} s)" if seconds >= SHOW_TIME_AFTER else ""
        elapsed = f", {self.progress}{elapsed}" if self.progress else elapsed
        return _cut(f"{frame} {one_line(f'{self.title}: {self.text}')}", elapsed, self._columns())

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self.terminal.fileno()).columns or 80
        except (OSError, ValueError):
            return 80

    def _write(self, text: str) -> None:
        """Write to the terminal; after an error, such as a closed terminal, stop drawing."""
        encoding = getattr(self.terminal, "encoding", None) or "utf-8"
        try:
            self.terminal.write(text.encode(encoding, "replace").decode(encoding))
            self.terminal.flush()
        except (OSError, ValueError):
            self.closed.set()


class _ErasingStream:
    """A standard stream that erases the activity line before each text that it writes."""

    def __init__(self, stream: TextIO, line: _Line) -> None:
        self._stream, self._line = stream, line

    def write(self, text: str) -> int:
        with self._line.lock:
            self._line.erase()
            if text:
                self._line.at_line_start = text.endswith("\n")
            return self._stream.write(text)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


def _cut(text: str, end: str, columns: int) -> str:
    """Join `text` and `end`; shorten `text` so that the terminal's last column stays free."""
    from rich.cells import cell_len, set_cell_size

    room = columns - 1 - len(end)
    if cell_len(text) > room:
        text = f"{set_cell_size(text, max(0, room - 3))}..."
    return f"{text}{end}"[: max(0, columns - 1)]
