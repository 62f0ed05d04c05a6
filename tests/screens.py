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
HALF = re.compile(b"\r\x1b?\\Z")
"""What may be the first part of such a place."""


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
    """The lines of the first drawing that showed a text of `until`, with all of its parts: the
    drawing lasts until the line is drawn again, in however many pieces the terminal gives it."""

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
    timeout: float = 600,
) -> Screen:
    """Run a Python program on a terminal with this many columns.

    Once a text of `until` is on the screen, Ctrl-C is typed as many times as its value says. With
    `stdout` only standard error and input are the terminal. A program that has not ended after
    `timeout` seconds is killed, even if it still draws.
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
    raw, first, rest = b"", 0.0, b""
    waiting, drawn, snapshots = dict(until or {}), set[str](), dict[str, list[str]]()
    while True:
        piece = _next_piece(ours, began + timeout)
        if not piece:
            break
        first = first or time.monotonic() - began
        raw += piece
        known, rest = _whole(rest + piece)
        for number, part in enumerate(REDRAWN.split(known)):
            stream.feed(part)
            drawn = drawn if number == 0 else set()  # else the next drawing has begun
            shown = "\n".join(screen.display) if waiting else ""
            for text in [text for text in waiting if text in shown]:
                drawn.add(text)
                os.write(ours, CTRL_C * waiting.pop(text))
            snapshots |= dict.fromkeys(drawn, _lines(screen))
    stream.feed(rest)
    code = _end_of(process, ours, _lines(screen), began + timeout)
    return Screen(code, _lines(screen), raw.decode(), first, bool(screen.cursor.hidden), snapshots)


def _next_piece(terminal: int, end: float) -> bytes:
    """What the program writes next; nothing if it has ended, or from the time `end` on."""
    ready, _, _ = select.select([terminal], [], [], max(0.0, end - time.monotonic()))
    if not ready or time.monotonic() >= end:
        return b""
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux reports that the other side is closed
        return b""


def _whole(text: bytes) -> tuple[bytes, bytes]:
    """The text up to what may be the first part of a place of REDRAWN, and this part."""
    half = HALF.search(text)
    end = half.start() if half else len(text)
    return text[:end], text[end:]


def _end_of(process: subprocess.Popen[bytes], terminal: int, lines: list[str], end: float) -> int:
    """The exit code of a program that writes nothing more; it is killed if it does not end."""
    os.close(terminal)
    try:
        assert time.monotonic() < end, ("the program does not end; its terminal shows", lines)
        return process.wait(120)
    except (AssertionError, subprocess.TimeoutExpired):
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise


def _lines(screen: pyte.HistoryScreen) -> list[str]:
    gone = ["".join(line[x].data for x in range(screen.columns)) for line in screen.history.top]
    lines = [line.rstrip() for line in [*gone, *screen.display]]
    while lines and not lines[-1]:
        lines.pop()
    return lines
