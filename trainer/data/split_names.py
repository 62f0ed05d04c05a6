"""Split names: determines the split of a file from its name or the name of its folder."""

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from trainer.data.compressed import stem_of
from trainer.errors import InputError
from trainer.stores.url import shown

USUAL_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "development", "eval", "evaluation"),
    "test": ("test", "testing", "heldout", "holdout"),
}
"""The words that name each split, in any case and anywhere in a name: imdb_train.csv, Test.csv."""
_SPLIT_OF = {name: split for split, names in USUAL_NAMES.items() for name in names}


def named_splits(files: Sequence[Path], root: Path, where: str) -> dict[str, list[Path]]:
    """Split -> its files; a split such as dev is also listed under its usual name, validation.

    The split comes from the file's name, else from the nearest folder below `root`. If no file has
    a usual name, all are training files. Raises InputError for a name with words of two splits.
    """
    usual = {file: usual_split(file, root, where) for file in files}
    if not any(usual.values()):
        return {"train": list(files)}
    splits: dict[str, list[Path]] = {}
    for file in files:
        for name in dict.fromkeys([own_name(file, root), *filter(None, [usual[file]])]):
            splits.setdefault(name, []).append(file)
    return splits


def usual_split(file: Path, root: Path, where: str) -> str | None:
    """train, validation or test, if the file or a folder below `root` is named so; else None."""
    folder = file.parent
    folders = folder.relative_to(root).parts if folder.is_relative_to(root) else ()
    own = _splits_in(stem_of(file))
    above = next((found for part in folders[::-1] if (found := _splits_in(part))), set())
    found_splits = own | above
    if len(found_splits) > 1:
        both = " and ".join(sorted(found_splits))
        raise InputError(
            f"{where}: {shown(file)} is named after {both}; accepted: one of them, "
            "or separate files for dataset.train, dataset.validation and dataset.test"
        )
    return next(iter(found_splits), None)


def own_name(file: Path, root: Path) -> str:
    """The name of a file without its shard number: train for train-00000-of-00002.parquet.

    If the name is only a shard number (part-00000-….snappy), this is the name of its folder.
    """
    stem = re.sub(r"[-_.]\d+([-_]of[-_]\d+)?$", "", stem_of(file))
    is_part = re.match(r"(part|shard|chunk|data)?[-_.]?\d", stem_of(file), re.IGNORECASE)
    return file.parent.name if is_part and file.parent != root else stem


def _splits_in(name: str) -> set[str]:
    """The splits named by the words of a name; "held out" or "dev set" count as one word each."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)
    words = [word.lower() for word in words]
    words += [first + second for first, second in pairwise(words)]
    plain = (re.sub(r"(?<=.)(data|set)$", "", word) for word in words)
    return {_SPLIT_OF[word] for word in plain if word in _SPLIT_OF}
