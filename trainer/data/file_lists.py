"""File lists: which files of a folder are data, and whether several paths fit together."""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from trainer.data.column_types import Content
from trainer.errors import InputError
from trainer.plurals import plural

Paths = str | Sequence[str]
"""A path, folder, glob or pkg://package/folder, or a list of them; a list's rows are
concatenated."""
ACCEPTED = "accepted: a file, a folder or a glob, or a list of them"

log = logging.getLogger("trainer")

OF_RUN = {
    "config.yaml": ("metrics.jsonl", "dropped.jsonl", "results.json", "checkpoint-*"),
    "evaluation.json": ("evaluation-predictions*.jsonl",),
}
"""A file of a run or an evaluation -> patterns of other files, one of which must be next to it."""
MOST_OF_CONFIG = 1 << 20
"""The number of bytes of a config.yaml that are searched for the sections of a run."""
SECTIONS = [rb"(?m)^%b:" % name for name in (b"dataset", b"model", b"recipe", b"trainer")]
"""Patterns that distinguish the config.yaml of a run from those of other programs."""
SWEEP = re.compile(r"sweep-[0-9a-f]{8}\.csv$")
"""The name of a sweep's table, which is stored next to the folders of the runs."""


def check_paths(given: object, where: str) -> None:
    """Raise InputError for an empty path or list, and for an entry that is not a path."""
    if isinstance(given, Mapping):
        for name, each in given.items():
            check_paths(each, f"{where}.{name}")
    if given == "":  # the current folder, if it were a path
        raise InputError(f"{where}: found an empty path; {ACCEPTED}")
    if not isinstance(given, list | tuple):
        return
    if not given:
        raise InputError(f"{where}: the list is empty; {ACCEPTED}")
    for each in given:
        if not isinstance(each, str) or not each:
            found = f"{each!r:.60}" if each != "" else "an empty path"
            raise InputError(f"{where}: found {found} in the list; {ACCEPTED}")


def without_runs(files: Sequence[Path], folder: Path, where: str) -> list[Path]:
    """The files below `folder`, except those of runs in its subfolders and tables of sweeps.

    `dataset.path=.` would otherwise read the files of earlier runs in `runs`. A warning says how
    many files are not read.
    """
    marks = [file.parent for name in OF_RUN for file in folder.rglob(name)]
    runs = {each for each in marks if each != folder and _holds_run(each)}
    skipped = {f for f in files if not runs.isdisjoint(f.parents) or SWEEP.match(f.name)}
    if skipped:
        found = f"{plural(len(skipped), 'file')} written by earlier runs, such as {min(skipped)}"
        log.warning("%s: %s: not read: %s", where, folder, found)
    return [file for file in files if file not in skipped]


def _holds_run(folder: Path) -> bool:
    """Whether a run or an evaluation wrote its files to this folder."""
    found = [
        name
        for name, others in OF_RUN.items()
        if (folder / name).is_file() and any(any(folder.glob(other)) for other in others)
    ]
    return "evaluation.json" in found or ("config.yaml" in found and _is_config(folder))


def _is_config(folder: Path) -> bool:
    with open(folder / "config.yaml", "rb") as file:
        text = file.read(MOST_OF_CONFIG)
    return all(re.search(section, text) for section in SECTIONS)


def shown_paths(paths: Paths) -> str:
    """The paths as one string, for messages."""
    return paths if isinstance(paths, str) else f"[{', '.join(paths)}]"


def refuse_repeats(entries: Sequence[Sequence[Path]], where: str) -> None:
    """Raise InputError if two entries of a list name or contain the same file."""
    seen: set[Path] = set()
    for files in entries:
        resolved_files = {file.resolve(): file for file in files}
        for resolved, file in resolved_files.items():
            if resolved in seen:
                raise InputError(f"{where}: {file} is in the list twice; accepted: each file once")
        seen |= set(resolved_files)


def check_same_columns(
    entries: Sequence[Sequence[Path]], contents: Sequence[Sequence[Content]], where: str
) -> None:
    """Raise InputError if an entry lacks a column that another one has; empty files are ignored."""
    columns_of_entries = [_columns(*entry) for entry in zip(entries, contents, strict=True)]
    columns_of_entries = [columns for columns in columns_of_entries if columns]
    for columns in columns_of_entries:
        for others in columns_of_entries:
            for name, file in others.items():
                if name not in columns:
                    raise InputError(
                        f"{where}: {next(iter(columns.values()))} has no column '{name:.40}', "
                        f"which {file} has; the columns must be the same"
                    )


def _columns(files: Sequence[Path], contents: Sequence[Content]) -> dict[str, Path]:
    """Column -> the first file that has it."""
    found: dict[str, Path] = {}
    for file, content in zip(files, contents, strict=True):
        for name in content.columns:
            found.setdefault(name, file)
    return found
