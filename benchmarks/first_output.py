"""Measures the time until a command prints anything, and until it prints its actual output.

python benchmarks/first_output.py            # five starts of --help, an error and the quickstart
python benchmarks/first_output.py --rounds 2
"""

import argparse
import os
import pty
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
CASES = {
    "--help": (["--help"], b"job="),
    "an error": (["trainer.learning_rat=1"], b"did you mean"),
    "the quickstart": (["output_dir=run"], b"parameters"),
}
"""Name -> arguments, and a text in the command's actual output."""


def main() -> int:
    """Print a table of medians."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    print("| command | first output, s | actual output, s |\n|---|---|---|")
    for name, (arguments, text) in CASES.items():
        found = [seconds(arguments, text) for _ in range(rounds)]
        first, actual = (statistics.median(column) for column in zip(*found, strict=True))
        print(f"| {name} | {first:.2f} | {actual:.2f} |")
    return 0


def seconds(arguments: Sequence[str], text: bytes) -> tuple[float, float]:
    """The seconds until the first output, and until `text`. The program is then killed."""
    controller, terminal = pty.openpty()
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, ROOT / "launch.py", *arguments],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            cwd=folder,
            env={**os.environ, "TERM": "xterm-256color", "CI": ""},
        )
        os.close(terminal)
        first, output = 0.0, b""
        while text not in output:
            output += os.read(controller, 65536)  # raises OSError if the program ends before
            first = first or time.monotonic() - began
        actual = time.monotonic() - began
        process.send_signal(signal.SIGKILL)
        process.wait()
        os.close(controller)
    return first, actual


if __name__ == "__main__":
    raise SystemExit(main())
