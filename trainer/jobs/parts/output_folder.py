"""Output folder: checks, before data are read, that a run can be written to its folder."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePath

from trainer.data.saved_datasets import is_saved
from trainer.data.sources import are_skipped
from trainer.errors import EnvironmentFault, InputError
from trainer.runs.folder import RunFolder
from trainer.runs.run import Run
from trainer.stores.inputs import GLOB, matches_glob, root_and_glob
from trainer.stores.url import is_in_store, plain_path

WRITTEN = ("metrics.jsonl", "results.json", "checkpoint-1/config.json")
"""Some files that a run writes, in formats that data sets may have."""
SETS = ("path", "train", "validation", "test")
"""The keys of a data set that name files."""
FILES = "Files"
"""The suffix of the name of the data source that reads files in formats that runs also write."""


def check_output_folder(run: Run) -> None:
    """Raise InputError or EnvironmentFault if the run could not be written or continued.

    Call this before tokenizing, which may take long. Creates nothing.
    """
    run_folder = RunFolder(run.place)
    if not is_in_store(run.place):
        _check_writable(run_folder.path, run.place)
    run_folder.check_resume(run.trainer.resume)
    _check_model(run, run_folder)
    for where, path in _data_paths(run.config.get("dataset") or {}, "dataset"):
        if _reads(where, path, run.place):
            found = f"{where} ({path}) reads {run.place} too, where this run writes its files"
            raise InputError(f"output_dir: {found}; accepted: a folder outside of it")


def _check_writable(folder: Path, shown: str) -> None:
    existing = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
    if not existing.is_dir():
        name = shown if existing == folder else str(existing)
        raise InputError(f"output_dir: '{name}' is a file; accepted: the path of a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise EnvironmentFault(f"output_dir: {existing}: permission denied")


def _check_model(run: Run, folder: RunFolder) -> None:
    """Refuse a model from the run's own folder: the run would resume from a checkpoint instead."""
    given = run.model.path
    if given is None or is_in_store(given) != is_in_store(run.place):
        return
    in_store = is_in_store(given)
    path, place = (PurePath(p) if in_store else _resolved(p) for p in (given, run.place))
    own = re.fullmatch(r"model|checkpoint-\d+", path.name) and path.parent == place
    if own and _has_checkpoint(folder):
        found = f"{run.model.path} was written by the run in {run.place}"
        accepted = "another output_dir, or the model from which that run started"
        raise InputError(f"model.path: {found}, which would resume instead; accepted: {accepted}")


def _has_checkpoint(folder: RunFolder) -> bool:
    if folder.store is None:
        return folder.newest is not None
    return bool(folder.store.folders.steps(folder.store.store.listing()))


def _data_paths(dataset: Mapping[str, object], where: str) -> Iterator[tuple[str, str]]:
    """Yield (key, path) for a data set of files, or for the sources of a mixture."""
    if isinstance(mixture := dataset.get("mixture"), Mapping):
        for name, source in mixture.items():
            given = source.get("dataset") if isinstance(source, Mapping) else None
            files = given if isinstance(given, Mapping) else {"path": given}
            yield from _data_paths(files, f"{where}.mixture.{name}")
    elif str(dataset.get("_target_", FILES)).endswith(FILES):
        yield from ((f"{where}.{key}", path) for key in SETS for path in _texts(dataset.get(key)))


def _texts(found: object) -> list[str]:
    """A path, the paths of a list, or those of named sets."""
    if isinstance(found, str):
        return [found]
    entries = found.values() if isinstance(found, Mapping) else found
    return (
        [path for each in entries for path in _texts(each)] if isinstance(entries, Iterable) else []
    )


def _reads(key: str, path: str, place: str) -> bool:
    """Whether a setting of the data set reads the files that a run writes to `place`.

    A local folder that merely contains the run does not, since runs in subfolders are skipped. A
    folder in a store does, since it would be copied first.
    """
    if is_in_store(path) != is_in_store(place):
        return False
    root, pattern, folder = (_in_store if is_in_store(path) else _on_disk)(path, place)
    if pattern:
        is_inside = folder.is_relative_to(root)
        names = [str(folder.relative_to(root) / name) for name in WRITTEN] if is_inside else []
        return any(matches_glob(name, pattern) for name in names)
    if is_in_store(path):
        return folder.is_relative_to(root) and not are_skipped(folder.relative_to(root).parts)
    return folder == root and not (key.endswith("path") and is_saved(Path(root)))


def _in_store(path: str, place: str) -> tuple[PurePath, str, PurePath]:
    """The folder and the pattern of a URL, and the folder of the run."""
    root, pattern = root_and_glob(path)
    return PurePath(root), pattern, PurePath(place)


def _on_disk(path: str, place: str) -> tuple[PurePath, str, PurePath]:
    """Like `_in_store`, for local paths without links and `..`; no pattern if the path exists."""
    found = Path(os.path.expanduser(plain_path(path)))
    parts = () if found.exists() else found.parts
    first = next((n for n, part in enumerate(parts) if any(c in part for c in GLOB)), len(parts))
    pattern = "/".join(parts[first:])
    root = Path(*parts[:first]) if pattern else found
    return _resolved(str(root)), pattern, _resolved(place)


def _resolved(path: str) -> Path:
    """An absolute path without links; `realpath` also accepts a link to itself."""
    return Path(os.path.realpath(os.path.expanduser(plain_path(path))))
