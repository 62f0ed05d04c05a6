"""Output format: what a file of answers is written as, told by its name; imports nothing heavy."""

import re
import stat
from pathlib import Path

from trainer.errors import InputError

FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
"""End of a file's name -> its format."""
DESCRIPTORS = {"/dev/stdout": 1, "/dev/stderr": 2}
"""Names of a descriptor that this process has already; others are /dev/fd/NUMBER."""


def output_format(path: str) -> str:
    """The format of an output file; a pipe or a device of any other name gets JSON lines.

    Raises InputError for a name that tells no format, and for a folder.
    """
    file = Path(path)
    if file.is_dir():
        raise InputError(f"output.file: found the folder '{path}'; accepted: a file")
    ending = file.suffix.lower()
    if ending in FORMATS:
        return FORMATS[ending]
    if writes_through(file):
        return "jsonl"
    found = f"'{path}' ends in '{ending}'" if ending else f"'{path}' has no ending"
    raise InputError(f"output.file: {found}; accepted: {', '.join(FORMATS)}")


def refuse_own_input(output: str | None, source: str | None) -> None:
    """Refuse an output file that would replace the file that its rows come from."""
    if output is None or source is None or writes_through(Path(output)):
        return
    try:
        same = Path(output).samefile(source)
    except OSError:  # one of them is not there
        return
    if same:
        raise InputError(f"output.file: '{output}' is input.file; accepted: another file")


def writes_through(path: Path) -> bool:
    """Whether a path is a pipe, a device or a descriptor: written to as it is, not replaced."""
    if descriptor_of(path) is not None:
        return True
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:  # not there yet, or a link to what is not
        return False


def descriptor_of(path: Path) -> int | None:
    """The descriptor that a path such as /dev/stdout or /dev/fd/3 names."""
    name = str(path)
    found = re.fullmatch(r"/(?:dev|proc/self)/fd/(\d{1,6})", name)
    return int(found[1]) if found else DESCRIPTORS.get(name)
