"""Draws the pictures of the documentation: the terminal, the report, and the figures of docs/how.

python docs/pictures.py                            # all of them, from one run of the quickstart
python docs/pictures.py terminal                   # only these; also: report, figures
python docs/pictures.py all trainer.max_steps=100  # with settings of the quickstart

The commands run in a pseudo-terminal of 80 columns, and the pictures show its content. The picture
of the report needs Chromium.
"""

import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
PROGRAM = "python launch.py"
COLUMNS = 80
KINDS = ("terminal", "report", "figures")
MAX_BYTES = {"terminal": 60_000, "report": 250_000}
MISTAKE = "trainer.learning_rat=1e-4"
"""The misspelled setting in the picture of an error."""
BAR = re.compile(r"epoch \d.* left")
PROGRESS = 0.7
"""The share of the training that is done in its picture, so that it shows an evaluation."""
CONTROLS = re.compile(r"(\r\x1b\[2K|\x1b\[1A\x1b\[2K|\x1b\[\?25[hl]|\r?\n|\r)")
"""The control sequences of a bar: erase the line or the one above, hide or show the cursor, and
move to another line."""
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,1900",
)


def main(arguments: Sequence[str]) -> int:
    """Draw the pictures of one kind, or all. Returns the exit code of the run in the pictures."""
    kind, *settings = arguments or ["all"]
    if kind not in (*KINDS, "all"):
        raise SystemExit(f"found {kind}; accepted: all, {', '.join(KINDS)}")
    if kind in ("figures", "all"):
        subprocess.run([sys.executable, ROOT / "docs" / "draw_figures.py"], check=True)
    if kind == "figures":
        return 0
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        code, output = on_terminal(["output_dir=runs/quickstart", *settings], where)
        if code == 0 and kind != "report":
            command = " ".join([PROGRAM, *settings])
            draw("quickstart", command, final(output))
            draw("training", command, training(output))
            draw("error", f"{PROGRAM} {MISTAKE}", final(on_terminal([MISTAKE], where)[1]))
        if code == 0 and kind != "terminal":
            draw_report(where / "runs" / "quickstart")
    return code


def on_terminal(arguments: Sequence[str], folder: Path) -> tuple[int, str]:
    """The exit code and the output of launch.py in a terminal, with `folder` as its directory."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    variables = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "CI", "COLUMNS")}
    variables |= {"TERM": "xterm-256color", "COLORTERM": "truecolor", "TEMPERING_PROGRAM": PROGRAM}
    process = subprocess.Popen(
        [sys.executable, ROOT / "launch.py", *arguments],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        cwd=folder,
        env=variables,
    )
    os.close(terminal)
    output = b""
    while piece := _read(controller):
        output += piece
    os.close(controller)
    return process.wait(), output.decode()


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # Linux reports that the other side is closed
        return b""


def screens(output: str) -> list[list[str]]:
    """The lines in the terminal after each change, with their colors."""
    lines, found = [""], []
    for number, piece in enumerate(CONTROLS.split(output)):
        if number % 2 == 0:
            lines[-1] += piece
        elif piece.endswith("\n"):
            lines.append("")
        elif piece.startswith("\x1b[1A"):
            lines = [*lines[:-2], ""]
        elif piece.endswith("2K"):
            lines[-1] = ""
        found.append(list(lines))
    return found


def final(output: str) -> list[str]:
    """The lines in the terminal at the end."""
    return screens(output)[-1]


def training(output: str) -> list[str]:
    """The lines in the terminal when the share PROGRESS of the training is done."""
    bars = [lines for lines in screens(output) if BAR.search(Text.from_ansi(lines[-1]).plain)]
    return bars[int(PROGRESS * len(bars))]


def draw(name: str, command: str, lines: Sequence[str]) -> None:
    """Write a picture of the terminal with the command and the lines below it."""
    console = Console(file=StringIO(), record=True, width=COLUMNS, force_terminal=True)
    console.print(Text.assemble(("$ ", "bold green"), command))
    text = "\n".join(lines).rstrip()
    console.print(Text.from_ansi(text), soft_wrap=False, overflow="fold")
    picture = compact(console.export_svg(title=PROGRAM, unique_id=name), name)
    _write(IMAGES / f"{name}.svg", picture.encode(), MAX_BYTES["terminal"])


def compact(picture: str, name: str) -> str:
    """The same picture without clip paths, empty texts and escaped spaces: half the bytes.

    The spaces stay unbreakable, since browsers drop others at the end of a text.
    """
    picture = re.sub(rf' clip-path="url\(#{name}-line-\d+\)"', "", picture)
    picture = re.sub(rf'<clipPath id="{name}-line-\d+">.*?</clipPath>\s*', "", picture, flags=re.S)
    picture = re.sub(r"<text[^>]*>(?:&#160;|\s)*</text>", "", picture)
    return re.sub(r"[ \t]+\n", "\n", picture.replace("&#160;", "\u00a0"))


def draw_report(run: Path) -> None:
    """Write a picture of the top of a run's report."""
    program = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if program is None:
        raise SystemExit("docs/images/report.png: not drawn, since Chromium is not installed")
    with tempfile.TemporaryDirectory() as profile:
        picture = Path(profile, "report.png")
        places = [f"--user-data-dir={profile}", f"--screenshot={picture}"]
        page = (run / "report.html").absolute().as_uri()
        subprocess.run([program, *FLAGS, *places, page], check=True)
        _write(IMAGES / "report.png", picture.read_bytes(), MAX_BYTES["report"])


def _write(path: Path, picture: bytes, limit: int) -> None:
    if len(picture) > limit:
        raise SystemExit(f"{path}: {len(picture):,} bytes, more than {limit:,}; shorten the run")
    path.write_bytes(picture)
    print(f"{path.relative_to(ROOT)}: {len(picture):,} bytes")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
