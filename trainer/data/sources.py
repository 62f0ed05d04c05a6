"""Sources: the named splits that lie at a path: files, folders, globs, save_to_disk, the hub."""

import glob
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.data.foreign_folders import read_saved
from trainer.data.formats import ENDINGS, read
from trainer.errors import EnvironmentFault, InputError, nearest
from trainer.foreign_files import check_files

if TYPE_CHECKING:
    from datasets import Dataset

USUAL_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing"),
}
"""The names under which each split is looked for where the user names none."""


@dataclass(frozen=True)
class Source:
    """Splits by name, read only when asked for."""

    names: Sequence[str]
    read: Callable[[str], "Dataset"]
    slices: bool = False
    """Whether `read` takes train[:80%] and train+test too."""

    def usual(self, split: str) -> str | None:
        """The first of the usual names of train, validation or test that there is."""
        return next((name for name in USUAL_NAMES[split] if name in self.names), None)

    def rows(self, split: str, where: str) -> "Dataset":
        """The rows of a split. Raises InputError if there is none of that name."""
        for part in split.split("+") if self.slices else [split]:
            name = part.split("[")[0] if self.slices else part
            if name not in self.names:
                there = f"there are: {', '.join(self.names)}{nearest(name, self.names)}"
                raise InputError(f"{where}: no split '{name}'; {there}")
        return self.read(split)


def source_at(path: str, name: str | None, revision: str | None, has_header: bool) -> Source:
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
    splits = _named_by_files(files_at(path, where))
    return Source(list(splits), lambda split: _read_all(splits[split], where, has_header))


def read_files(path: str, where: str, has_header: bool = True) -> "Dataset":
    """All rows of a file, a folder, a glob or pkg://package/folder, in the order of their paths."""
    return _read_all(files_at(path, where), where, has_header)


def files_at(path: str, where: str) -> list[Path]:
    """The data files at a path, folder, glob or pkg://, sorted. Raises if there are none."""
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
    if not files:
        siblings = [str(place.parent / sibling.name) for sibling in _listed(place.parent)]
        found = "holds no data file" if place.is_dir() else "does not exist"
        raise InputError(f"{where}: {path} {found}; accepted: {accepted}{nearest(path, siblings)}")
    return files


def _place(path: str, where: str) -> Path:
    if path.startswith("pkg://"):
        from trainer.hub import find

        return find(path, what=where)
    return Path(path).expanduser()


def _listed(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _is_data(file: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return not hidden and file.suffix.lower() in ENDINGS and file.is_file()


def _is_hub_id(path: str) -> bool:
    """name or owner/name, without the ending of a data file."""
    return bool(re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", path)) and Path(path).suffix not in ENDINGS


def _named_by_files(files: list[Path]) -> dict[str, list[Path]]:
    """Files by the split that they are named after; {"train": all} if none has a usual name."""
    splits: dict[str, list[Path]] = {}
    for file in files:
        stem = re.sub(r"[-_.]\d+([-_]of[-_]\d+)?$", "", file.stem)
        splits.setdefault(file.parent.name if stem.isdigit() else stem, []).append(file)
    usual = {name for names in USUAL_NAMES.values() for name in names}
    return splits if len(files) > 1 and usual & set(splits) else {"train": files}


def _read_all(files: list[Path], where: str, has_header: bool) -> "Dataset":
    import pyarrow as pa
    from datasets import Dataset

    endings = sorted({file.suffix.lower() for file in files})
    if len(endings) > 1:
        found = f"{files[0]} and {len(files) - 1} more end in {' and '.join(endings)}"
        raise InputError(f"{where}: {found}; files of one split have one ending")
    tables = [read(file, where, has_header=has_header) for file in files]
    for file, table in zip(files, tables, strict=True):
        if table.column_names != tables[0].column_names:
            raise InputError(
                f"{where}: {file} has columns {', '.join(table.column_names)}; "
                f"{files[0]} has {', '.join(tables[0].column_names)}; they must be the same"
            )
    try:
        return Dataset(pa.concat_tables(tables, promote_options="permissive"))
    except (pa.ArrowException, ValueError, TypeError) as error:
        found = str(error).splitlines()[0]
        raise InputError(f"{where}: {files[0]}: not a table of rows ({found})") from None


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
