"""Programs on a terminal: what a terminal emulator shows of them, and when the first text came."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyte

ROOT = Path(__file__).parents[1]
ROWS = 60
CTRL_C = b"\x03"
REDRAWN = re.compile(b"(?=\r\x1b\\[)")
"""Before a line is drawn again."""


@dataclass(frozen=True)
class Screen:
    """A program's end, and the terminal then."""

    code: int
    lines: list[str]
    """All lines, including those that have scrolled away, without trailing spaces."""
    raw: str
    """Everything that was written, escapes included."""
    first: float
    """Seconds until something was on the screen."""
    cursor_hidden: bool
    snapshots: Mapping[str, list[str]]
    """The lines at the moment when a text of `until` was on the screen for the first time."""

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


def on_terminal(
    arguments: Sequence[str],
    columns: int = 80,
    *,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    until: Mapping[str, int] | None = None,
    stdout: int | None = None,
    timeout: float = 120,
) -> Screen:
    """Run a Python program on a terminal with this many columns.

    `until` maps texts to numbers of Ctrl-C that are typed once the text is on the screen. With
    `stdout` only standard error and input are the terminal.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
    variables = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "CI")}
    variables |= {"TERM": "xterm-256color", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdin=theirs,
        stdout=theirs if stdout is None else stdout,
        stderr=theirs,
        env=variables | dict(environment or {}),
        cwd=cwd,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(2, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    screen = pyte.HistoryScreen(columns, ROWS, history=5000, ratio=0.5)
    stream = pyte.ByteStream(screen)
    raw, first, waiting, snapshots = b"", 0.0, dict(until or {}), {}
    while True:
        ready, _, _ = select.select([ours], [], [], timeout)
        try:
            piece = os.read(ours, 65536) if ready else b""
        except OSError:  # Linux reports that the other side is closed
            piece = b""
        if not piece:
            break
        first = first or time.monotonic() - began
        raw += piece
        for drawing in REDRAWN.split(piece):
            stream.feed(drawing)
            shown = "\n".join(screen.display) if waiting else ""
            for text in [text for text in waiting if text in shown]:
                snapshots[text] = _lines(screen)
                for number in range(waiting.pop(text)):
                    time.sleep(0.5 * (number > 0))
                    os.write(ours, CTRL_C)
    os.close(ours)
    try:
        code = process.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return Screen(code, _lines(screen), raw.decode(), first, bool(screen.cursor.hidden), snapshots)


def _lines(screen: pyte.HistoryScreen) -> list[str]:
    gone = ["".join(line[x].data for x in range(screen.columns)) for line in screen.history.top]
    lines = [line.rstrip() for line in [*gone, *screen.display]]
    while lines and not lines[-1]:
        lines.pop()
    return lines
