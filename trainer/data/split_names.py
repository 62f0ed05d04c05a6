"""Split names: what the rows of a file are for, told by its name or its folder."""

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from trainer.data.compressed import stem_of
from trainer.errors import InputError

USUAL_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "development", "eval", "evaluation"),
    "test": ("test", "testing", "heldout", "holdout"),
}
"""The words that name each split, in any case, alone or among others: imdb_train.csv, Test.csv."""
_SPLIT_OF = {name: split for split, names in USUAL_NAMES.items() for name in names}


def named_splits(files: Sequence[Path], root: Path, where: str) -> dict[str, list[Path]]:
    """Files by the name of their split, the usual ones among them under their usual name.

    A file's own name tells its split, else the nearest folder below `root`. Where no file has a
    usual name, all are training rows. Raises InputError for a name that tells two splits.
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
    """train, validation or test, where the file's name or a folder below `root` says so."""
    folders = file.parent.relative_to(root).parts if file.is_relative_to(root) else ()
    own = _splits_in(stem_of(file))
    above = next((found for part in folders[::-1] if (found := _splits_in(part))), set())
    told = own | above
    if len(told) > 1:
        raise InputError(
            f"{where}: {file} is named after {' and '.join(sorted(told))}; accepted: one of them, "
            "or dataset.train, dataset.validation and dataset.test one by one"
        )
    return next(iter(told), None)


def own_name(file: Path, root: Path) -> str:
    """A file's name without its number: train of train-00000-of-00002.parquet.

    Where it is but a number or a part's (part-00000-….snappy), the name of its folder.
    """
    stem = re.sub(r"[-_.]\d+([-_]of[-_]\d+)?$", "", stem_of(file))
    is_part = re.match(r"(part|shard|chunk|data)?[-_.]?\d", stem_of(file), re.IGNORECASE)
    return file.parent.name if is_part and file.parent != root else stem


def _splits_in(name: str) -> set[str]:
    """The splits that the words of a name tell; held out, test data and dev set are one word."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)
    words = [word.lower() for word in words]
    words += [first + second for first, second in pairwise(words)]
    plain = (re.sub(r"(?<=.)(data|set)$", "", word) for word in words)
    return {_SPLIT_OF[word] for word in plain if word in _SPLIT_OF}
