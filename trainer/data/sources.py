"""Sources: the named splits that lie at a path: files, folders, globs, save_to_disk, the hub."""

import glob
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.data.cells import Content, joined
from trainer.data.compressed import COMPRESSIONS, ending_of
from trainer.data.foreign_folders import read_saved
from trainer.data.formats import (
    ENDINGS,
    EXCEL,
    PICKLED,
    PLAIN,
    UNREAD,
    check_ending,
    read_content,
)
from trainer.data.places import remember
from trainer.data.reading import Reading
from trainer.data.split_names import USUAL_NAMES, named_splits, usual_split
from trainer.errors import EnvironmentFault, InputError, nearest
from trainer.foreign_files import check_files

if TYPE_CHECKING:
    from datasets import Dataset

DOCUMENTS = re.compile(
    r"(readme|licen[cs]e|citation|notice|changelog|requirements)\b.*|dataset_infos?\.json",
    re.IGNORECASE,
)
"""Files beside data sets that are no data, whatever their ending."""


@dataclass(frozen=True)
class Source:
    """Splits by name, read only when asked for."""

    names: Sequence[str]
    read: Callable[[str], "Dataset"]
    files: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    """The files of each split, where it has some; one may have two names, its own and a usual."""
    slices: bool = False
    """Whether `read` takes train[:80%] and train+test too."""

    def usual(self, split: str) -> str | None:
        """The first of the usual names of train, validation or test that there is."""
        known = {name.lower(): name for name in reversed(self.names)}
        return next((known[name] for name in USUAL_NAMES[split] if name in known), None)

    def refuse_unused(self, wanted: Collection[str], where: str) -> None:
        """Raise InputError for a file that is neither wanted nor of a usual split."""
        used = {file for name in (*USUAL_NAMES, *wanted) for file in self.files.get(name, ())}
        others = [file for found in self.files.values() for file in found if file not in used]
        if others:
            more = f" and {len(set(others)) - 1} more" if len(set(others)) > 1 else ""
            raise InputError(
                f"{where}: {others[0]}{more}: not named after a split; accepted: train, validation "
                "or test in the name of the file or its folder, or dataset.train=NAME, for one"
            )

    def check(self, split: str, where: str) -> None:
        """Raise InputError if there is no split of that name."""
        for part in split.split("+") if self.slices else [split]:
            name = part.split("[")[0] if self.slices else part
            if name not in self.names:
                there = f"there are: {', '.join(self.names)}{nearest(name, self.names)}"
                raise InputError(f"{where}: no split '{name}'; {there}")


def source_at(path: str, name: str | None, revision: str | None, reading: Reading) -> Source:
    """What lies at `dataset.path`: a place on the disk if there is one, else a hub id."""
    where = "dataset.path"
    place = _place(path, where)
    if _is_hub_id(path) and not place.exists():
        return _hub(path, name, revision)
    if name is not None or revision is not None:
        key = "name" if name is not None else "revision"
        raise InputError(f"dataset.{key}: only a hub id has one; {path} is on the disk")
    if any((place / mark).is_file() for mark in ("dataset_dict.json", "state.json")):
        return _saved_to_disk(place, where)
    splits = {"train": [place]}
    if not place.is_file():
        splits = named_splits(_listed_files(path, where), _root_of(place), where)
    return Source(list(splits), lambda split: read_all(splits[split], where, reading), splits)


def read_files(path: str, where: str, reading: Reading = PLAIN) -> "Dataset":
    """All rows of a file, a folder, a glob or pkg://package/folder, in the order of their paths."""
    return read_all(files_at(path, where), where, reading)


def files_at(path: str, where: str) -> list[Path]:
    """The data files at a path, folder, glob or pkg://, sorted.

    Raises InputError if there are none, if some cannot be read, and for files named after several
    splits where all are asked for as one.
    """
    files = _listed_files(path, where)
    _refuse_other_splits(files, _root_of(_place(path, where)), where)
    return files


def _listed_files(path: str, where: str) -> list[Path]:
    place = _place(path, where)
    if place.is_file():
        return [place]
    if place.is_dir():
        files = [file for file in sorted(place.rglob("*")) if _is_data(file, place)]
        check_files(files, place, where)
        accepted = f"files in {' '.join(ENDINGS)}"
    else:
        files = [Path(file) for file in sorted(glob.glob(str(place), recursive=True))]
        files = [file for file in files if file.is_file()]
        accepted = "a file, a folder or a glob that matches files"
    if place.exists() and not place.is_dir():
        raise InputError(f"{where}: {path} is a pipe or a device; accepted: {accepted}")
    if not files:
        found = "holds no data file" if place.is_dir() else "does not exist"
        hint = "" if place.is_dir() else _similar(path, place)
        raise InputError(f"{where}: {path} {found}; accepted: {accepted}{hint}")
    for file in files:
        check_ending(file, f"{where}: {file}")
    _refuse_two_copies(files, where)
    return files


def _refuse_two_copies(files: Sequence[Path], where: str) -> None:
    """Refuse a file beside its compressed copy (`gunzip -k` leaves both): rows would double."""
    plain = {file.with_suffix("") for file in files if file.suffix.lower() in COMPRESSIONS}
    if both := plain & set(files):
        first = min(both)
        raise InputError(
            f"{where}: found {first} and a compressed copy of it; accepted: one of the two"
        )


def _root_of(place: Path) -> Path:
    """The folder below which the names of folders say what files are for."""
    fixed = place
    while any(mark in str(fixed) for mark in "*?["):
        fixed = fixed.parent
    return fixed if fixed.is_dir() else fixed.parent


def _refuse_other_splits(files: list[Path], root: Path, where: str) -> None:
    """Of several files that are one split none may be named after another, such as test.csv."""
    section, _, wanted = where.partition(".")
    if section != "dataset" or len(files) == 1:
        return
    wanted = wanted.split(".")[0]
    named = [(usual_split(file, root, where), file) for file in files]
    told = {split for split, _ in named}
    for split, file in named:
        if split not in (None, wanted) and len(told) > 1:
            accepted = "accepted: files of one split, or all of them by dataset.path"
            raise InputError(f"{where}: {file} is named after {split} rows; {accepted}")


def _place(path: str, where: str) -> Path:
    if path.startswith("pkg://"):
        from trainer.hub import find

        return find(path, what=where)
    return Path(path).expanduser()


def _similar(path: str, place: Path) -> str:
    """A hint at what lies beside a path that does not exist; a broken link is beside no other."""
    folder = place.parent
    siblings = sorted(folder.iterdir()) if folder.is_dir() else []
    return nearest(path, [str(folder / each.name) for each in siblings if each.name != place.name])


def _is_data(file: Path, folder: Path) -> bool:
    """Whether a file of a folder is data, readable or not; hidden files and documents are not."""
    *above, name = file.relative_to(folder).parts
    hidden = name.startswith(".") or any(part.startswith((".", "_")) for part in above)
    data = ending_of(file) in (*ENDINGS, *UNREAD, *EXCEL, *PICKLED)
    return data and not hidden and not DOCUMENTS.fullmatch(name) and file.is_file()


def _is_hub_id(path: str) -> bool:
    """name or owner/name, without the ending of a data file."""
    endings = (*ENDINGS, *UNREAD, *EXCEL, *PICKLED)
    return (
        bool(re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", path)) and ending_of(Path(path)) not in endings
    )


def read_all(files: Sequence[Path], where: str, reading: Reading = PLAIN) -> "Dataset":
    from trainer.data.exact_json import dataset_of

    endings = sorted({ending_of(file) for file in files})
    if len(endings) > 1:
        found = f"{files[0]} and {len(files) - 1} more end in {' and '.join(endings)}"
        raise InputError(f"{where}: {found}; files of one split have one ending")
    contents = [read_content(file, where, reading) for file in files]
    _check_columns(files, contents, where)
    table = joined(contents, [f"{where}: {file}" for file in files])
    counts = [content.num_rows for content in contents]
    return remember(dataset_of(table), list(zip(files, counts, strict=True)), reading)


def _check_columns(files: Sequence[Path], contents: Sequence[Content], where: str) -> None:
    """Refuse files of different columns; those of JSON may differ, and an empty file has none."""
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
    """A data set of the hub, as data only: `datasets` runs no code of a repository."""
    from datasets import load_dataset_builder

    where = f"dataset.path: hub data set '{path}'"
    try:
        builder = load_dataset_builder(path, name, revision=revision)
        builder.download_and_prepare()
    except ConnectionError as error:
        found = str(error).splitlines()[0]
        raise EnvironmentFault(
            f"{where}: neither in the cache nor to be fetched ({found})"
        ) from None
    except (OSError, ValueError, RuntimeError) as error:
        found = str(error).splitlines()[0]
        raise InputError(f"{where}: {found}; no file or folder has that path either") from None

    def read_split(split: str) -> "Dataset":
        try:
            return builder.as_dataset(split=split)
        except ValueError as error:
            found = str(error).splitlines()[0]
            raise InputError(f"{where}: '{split}': {found}; slices are as train[:80%]") from None

    return Source(list(builder.info.splits or {}), read_split, slices=True)
