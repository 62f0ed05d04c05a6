"""Sources: the splits found at a path (a file, a folder or a glob) or in a hub data set."""

import glob
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.data.column_types import Content, joined
from trainer.data.compressed import COMPRESSIONS, ending_of
from trainer.data.file_lists import (
    Paths,
    check_paths,
    check_same_columns,
    refuse_repeats,
    without_runs,
)
from trainer.data.formats import (
    ENDINGS,
    EXCEL,
    PICKLED,
    PLAIN,
    UNREAD,
    check_ending,
    format_of,
    read_content,
)
from trainer.data.read_options import ReadOptions
from trainer.data.row_locations import record_locations
from trainer.data.saved_datasets import is_saved, read_saved
from trainer.data.split_names import USUAL_NAMES, named_splits, usual_split
from trainer.errors import EnvironmentFault, InputError, first_line, nearest
from trainer.foreign.files import check_files
from trainer.plurals import plural
from trainer.stores.inputs import staged
from trainer.stores.url import check_url, is_in_store, is_url, plain_path, shown

if TYPE_CHECKING:
    from datasets import Dataset

DOCUMENTS = re.compile(
    r"(readme|licen[cs]e|citation|notice|changelog|requirements)\b.*|dataset_infos?\.json",
    re.IGNORECASE,
)
"""Files that often accompany a data set and are not part of it."""
PATHS = "a file, a folder or a glob that matches files"
"""The accepted local paths, for error messages."""


@dataclass(frozen=True)
class Source:
    """Splits by name; `read(name)` loads one of them."""

    names: Sequence[str]
    read: Callable[[str], "Dataset"]
    files: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    """The local files of each split. A split may be listed twice, as dev and as validation."""
    slices: bool = False
    """Whether `read` also accepts train[:80%] and train+test."""

    def usual(self, split: str) -> str | None:
        """The split to use as `split` (train, validation or test); None if there is none."""
        known = {name.lower(): name for name in reversed(self.names)}
        return next((known[name] for name in USUAL_NAMES[split] if name in known), None)

    def refuse_unused(self, wanted: Collection[str], where: str) -> None:
        """Raise InputError for a file that belongs neither to a wanted split nor to a usual one."""
        used = {file for name in (*USUAL_NAMES, *wanted) for file in self.files.get(name, ())}
        others = [file for found in self.files.values() for file in found if file not in used]
        if others:
            more = f" and {len(set(others)) - 1} more" if len(set(others)) > 1 else ""
            raise InputError(
                f"{where}: {shown(others[0])}{more}: not named after a split; accepted: train, "
                "validation or test in the name of the file or its folder, or dataset.train=NAME, "
                "for one"
            )

    def check(self, split: str, where: str) -> None:
        """Raise InputError if there is no split with this name."""
        for part in split.split("+") if self.slices else [split]:
            name = part.split("[")[0] if self.slices else part
            if name not in self.names:
                existing = f"there are: {', '.join(self.names)}{nearest(name, self.names)}"
                raise InputError(f"{where}: no split '{name}'; {existing}")


def source_at(path: str, name: str | None, revision: str | None, reading: ReadOptions) -> Source:
    """The source at `dataset.path`: a local path if it exists, else a hub data set."""
    where = "dataset.path"
    place = _local_path(path, where)
    if is_hub_id(path) and not place.exists():
        return _hub(path, name, revision)
    if name is not None or revision is not None:
        key = "name" if name is not None else "revision"
        raise InputError(f"dataset.{key}: only hub data sets have one; {path} is a local path")
    if is_saved(place):
        return _saved_to_disk(place, where)
    splits = {"train": [place]}
    if not place.is_file():
        splits = named_splits(_listed_files(path, place, where), root_of(place), where)
    return Source(list(splits), lambda split: read_all(splits[split], where, reading), splits)


def read_files(paths: Paths, where: str, reading: ReadOptions = PLAIN) -> "Dataset":
    """All rows of the files at these paths. The files of a folder or glob are sorted by path.

    The entries of a list may have different formats; the type of a column is decided from all of
    them. Raises InputError.
    """
    return read_entries(entries_at(paths, where), where, reading)


def files_at(paths: Paths, where: str) -> list[Path]:
    """The data files at these paths, in the order in which they are read. Raises InputError."""
    return [file for files in entries_at(paths, where) for file in files]


def entries_at(paths: Paths, where: str) -> list[list[Path]]:
    """The data files of each entry. Raises InputError if two entries share a file."""
    check_paths(paths, where)
    entries = [_files_of(path, where) for path in ([paths] if isinstance(paths, str) else paths)]
    refuse_repeats(entries, where)
    refuse_two_copies([str(file) for files in entries for file in files], where)
    return entries


def _files_of(path: str, where: str) -> list[Path]:
    """The data files at a path (a file, folder, glob or pkg://), sorted.

    Raises InputError if there are none, if some cannot be read, or if files of one split are named
    after different splits.
    """
    place = _local_path(path, where)
    files = _listed_files(path, place, where)
    refuse_other_splits(files, root_of(place), where)
    return files


def _listed_files(path: str, place: Path, where: str) -> list[Path]:
    """The data files at `place`, the local path of `path`. Raises the errors of `_files_of`."""
    if place.is_file():
        return [place]
    if place.is_dir():
        files = [file for file in sorted(place.rglob("*")) if is_data(file, place)]
        files = without_runs(files, place, where)
        check_files(files, place, where)
    else:
        files = [Path(file) for file in sorted(glob.glob(str(place), recursive=True))]
        files = [file for file in files if file.is_file()]
    if place.exists() and not place.is_dir():
        raise InputError(f"{where}: {path} is a pipe or a device; accepted: {PATHS}")
    if not files and place.is_dir():
        accepted = f"files in {' '.join(ENDINGS)}"
        raise InputError(f"{where}: {path} holds no data file; accepted: {accepted}")
    if not files:
        raise _missing(path, place, where)
    for file in files:
        check_ending(file, f"{where}: {file}")
    refuse_two_copies(list(map(str, files)), where)
    return files


def refuse_two_copies(files: Sequence[str], where: str) -> None:
    """Raise InputError for a file with its compressed copy, whose rows would be read twice.

    `files` are the paths or URLs of all files that are read together.
    """
    ends = {file: Path(file).suffix for file in files}
    plain = {file.removesuffix(end) for file, end in ends.items() if end.lower() in COMPRESSIONS}
    if both := plain & set(files):
        first = min(both)
        raise InputError(
            f"{where}: found {first} and a compressed copy of it; accepted: one of the two"
        )


def root_of(place: Path) -> Path:
    """The folder whose subfolders may be named after splits: the path before any wildcard."""
    if place.exists():  # its name may contain wildcard characters
        return place if place.is_dir() else place.parent
    fixed = place
    while any(mark in str(fixed) for mark in "*?["):
        fixed = fixed.parent
    return fixed if fixed.is_dir() else fixed.parent


def refuse_other_splits(files: Sequence[Path], root: Path, where: str) -> None:
    """Raise InputError if several files form one split and some are named after another split."""
    section, _, key = where.partition(".")
    wanted = key.split(".")[0]
    if section != "dataset" or wanted not in USUAL_NAMES or len(files) == 1:
        return
    named = [(usual_split(file, root, where), file) for file in files]
    found_splits = {split for split, _ in named}
    for split, file in named:
        if split not in (None, wanted) and len(found_splits) > 1:
            accepted = "accepted: files of one split, or all of them by dataset.path"
            raise InputError(f"{where}: {shown(file)} is named after {split} rows; {accepted}")


def _local_path(path: str, where: str) -> Path:
    if path.startswith("pkg://"):
        from trainer.hub import find

        return find(path, what=where)
    if is_in_store(path):
        return staged(path, where)
    if is_url(path):
        check_url(path, where)
    return Path(os.path.expanduser(plain_path(path)))


def check_exists(path: str, where: str) -> None:
    """Raise InputError for a local path or glob that `read_files` would not find.

    Nothing is read, and URLs are not looked up.
    """
    if is_in_store(path):
        return
    place = _local_path(path, where)
    if not place.exists() and not any(glob.iglob(str(place), recursive=True)):
        raise _missing(path, place, where)


def _missing(path: str, place: Path, where: str) -> InputError:
    return InputError(f"{where}: {path} does not exist; accepted: {PATHS}{_similar(path, place)}")


def _similar(path: str, place: Path) -> str:
    """A hint at a similarly named file in the same folder, for a path that does not exist."""
    folder = place.parent
    siblings = sorted(folder.iterdir()) if folder.is_dir() else []
    return nearest(path, [str(folder / each.name) for each in siblings if each.name != place.name])


def is_data(file: Path, folder: Path) -> bool:
    """Whether a file below a folder is data (of any format), by its name and its kind."""
    return is_data_name(file.relative_to(folder).as_posix()) and file.is_file()


def is_data_name(name: str) -> bool:
    """Whether a relative path names a data file (of any format), not hidden or documentation."""
    *above, last = name.split("/")
    hidden = last.startswith(".") or are_skipped(above)
    data = ending_of(Path(last)) in (*ENDINGS, *UNREAD, *EXCEL, *PICKLED)
    return data and not hidden and not DOCUMENTS.fullmatch(last)


def are_skipped(folders: Iterable[str]) -> bool:
    """Whether files below these nested folders are skipped: a folder's name begins with . or _."""
    return any(part.startswith((".", "_")) for part in folders)


def is_hub_id(path: str) -> bool:
    """Whether a path looks like name or owner/name, without the ending of a data file."""
    endings = (*ENDINGS, *UNREAD, *EXCEL, *PICKLED)
    return (
        bool(re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", path)) and ending_of(Path(path)) not in endings
    )


def read_all(files: Sequence[Path], where: str, reading: ReadOptions = PLAIN) -> "Dataset":
    """The rows of files of one format as a data set. Raises InputError."""
    return read_entries([files], where, reading)


def read_entries(entries: Sequence[Sequence[Path]], where: str, reading: ReadOptions) -> "Dataset":
    """The rows of all files, with common column types. The files of each entry have one format.

    Raises InputError.
    """
    from trainer.data.exact_json import dataset_of

    read = [_contents(files, where, reading) for files in entries]
    check_same_columns(entries, read, where)
    files = [file for entry in entries for file in entry]
    contents = [content for entry in read for content in entry]
    table = joined(contents, [f"{where}: {file}" for file in files])
    counts = [content.num_rows for content in contents]
    return record_locations(dataset_of(table), list(zip(files, counts, strict=True)), reading)


def _contents(files: Sequence[Path], where: str, reading: ReadOptions) -> list[Content]:
    """The rows of files of one format, before their types are decided. Raises InputError."""
    formats = [format_of(file, f"{where}: {file}", reading) for file in files]
    endings = sorted(set(formats))
    if len(endings) > 1:
        found = (
            f"{files[0]} and {plural(len(files) - 1, 'other file')} end in {' and '.join(endings)}"
        )
        raise InputError(f"{where}: {found}; files of one split must have one ending")
    as_format = replace(reading, format=endings[0][1:])
    contents = [read_content(file, where, as_format) for file in files]
    _check_columns(files, contents, where)
    return contents


def _check_columns(files: Sequence[Path], contents: Sequence[Content], where: str) -> None:
    """Raise InputError if columns differ between files; JSON and empty files are exempt."""
    named = [(f, c) for f, c in zip(files, contents, strict=True) if c.columns and c.kind != "json"]
    for file, content in named[1:]:
        first, wanted = named[0]
        if set(content.columns) != set(wanted.columns):
            raise InputError(
                f"{where}: {file} has columns {', '.join(content.columns)}; "
                f"{first} has {', '.join(wanted.columns)}; they must be the same"
            )


def _saved_to_disk(folder: Path, where: str) -> Source:
    splits = read_saved(folder, where)
    return Source(list(splits), lambda split: splits[split])


def _hub(path: str, name: str | None, revision: str | None) -> Source:
    """A data set of the hub. `datasets` runs no code from the repository."""
    from datasets import load_dataset_builder
    from datasets.exceptions import DatasetsError

    where = f"dataset.path: hub data set '{path}'"
    try:
        builder = load_dataset_builder(path, name, revision=revision)
        builder.download_and_prepare()
    except ConnectionError as error:
        found = first_line(error)
        raise EnvironmentFault(
            f"{where}: not in the cache, and cannot be downloaded ({found})"
        ) from None
    except (OSError, ValueError, RuntimeError) as error:
        found = first_line(error)
        raise InputError(f"{where}: {found}; no file or folder has that path either") from None
    except DatasetsError as error:  # its cause says why, such as differing columns
        found = first_line(error.__cause__ or error)
        raise InputError(f"{where}: its files cannot be read ({found:.200})") from None

    def read_split(split: str) -> "Dataset":
        try:
            return builder.as_dataset(split=split)
        except ValueError as error:
            found = first_line(error)
            raise InputError(f"{where}: '{split}': {found}; slices look like train[:80%]") from None

    return Source(list(builder.info.splits or {}), read_split, slices=True)
