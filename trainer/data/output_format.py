"""Output format: determines the format of an output file from its name."""

import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

from trainer.errors import InputError
from trainer.stores.url import plain_path

FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".npy": "npy",
}
"""File ending -> format."""
DESCRIPTORS = {"/dev/stdout": 1, "/dev/stderr": 2}
"""Name -> file descriptor. Other descriptors have the names /dev/fd/NUMBER."""


def output_format(path: str) -> str:
    """The format of an output file; JSON Lines for a pipe or device with an unknown ending.

    Raises InputError for an unknown ending, and for a folder.
    """
    file = Path(os.path.expanduser(plain_path(path)))
    if file.is_dir():
        raise InputError(f"output.file: found the folder '{path}'; accepted: a file")
    ending = file.suffix.lower()
    if ending in FORMATS:
        return FORMATS[ending]
    if writes_through(file):
        return "jsonl"
    found = f"'{path}' ends in '{ending}'" if ending else f"'{path}' has no ending"
    raise InputError(f"output.file: {found}; accepted: {', '.join(FORMATS)}")


def refuse_own_input(output: str | None, source: str | Sequence[str] | None) -> None:
    """Raise InputError if the output file would replace an input file."""
    if output is None or source is None or writes_through(Path(output)):
        return
    for path in [source] if isinstance(source, str) else source:
        if _is_same(output, path):
            raise InputError(f"output.file: '{output}' is input.file; accepted: another file")


def _is_same(one: str, other: str) -> bool:
    if one == other:
        return True
    paths = [Path(os.path.expanduser(plain_path(each))) for each in (one, other)]
    try:
        return paths[0].samefile(paths[1])
    except OSError:  # one of them does not exist
        return False


def writes_through(path: Path) -> bool:
    """Whether a path is a pipe, device or descriptor: written to directly, not replaced."""
    if descriptor_of(path) is not None:
        return True
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:  # does not exist yet, or is a dangling link
        return False


def descriptor_of(path: Path) -> int | None:
    """The descriptor that a path such as /dev/stdout or /dev/fd/3 names; None for other paths."""
    name = str(path)
    found = re.fullmatch(r"/(?:dev|proc/self)/fd/(\d{1,6})", name)
    return int(found[1]) if found else DESCRIPTORS.get(name)
