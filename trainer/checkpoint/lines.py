"""Lines to a file that is whole or not there."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from trainer.checkpoint import files


def write_lines(path: Path, lines: Iterator[str]) -> None:
    """Write one line or more beside the target as they come, then give them its name."""
    first = next(lines)  # what is wrong with the input is found before anything is written
    staged = files.staged_name(path)
    files.make_folder(path.parent)
    try:
        files.truncate(staged, 0)
        for line in chain([first], lines):
            files.append_line(staged, line)
        files.fsync_file(staged)
        files.replace(staged, path)
        files.fsync_folder(path.parent)
    except BaseException:
        if staged.exists():
            files.remove_file(staged)
        raise
