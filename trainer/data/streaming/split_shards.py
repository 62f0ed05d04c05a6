"""Split shards: finds the shards of each split of a folder, a URL or a data set on the hub."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.data.file_lists import Paths
from trainer.data.read_options import BadRows, ReadOptions
from trainer.data.sources import Source, is_hub_id, read_files, root_of
from trainer.data.split_names import named_splits
from trainer.data.streaming.decoding import Decoder
from trainer.data.streaming.pieces import MOST_ROWS
from trainer.data.streaming.raw_rows import RawRows, joined
from trainer.data.streaming.readers import ShardReader
from trainer.data.streaming.shards import (
    Shard,
    format_of,
    is_shard,
    shards_at,
    shards_of,
    urls_at,
)
from trainer.errors import EnvironmentFault, InputError, first_line
from trainer.stores.inputs import root_and_glob
from trainer.stores.url import is_in_store, plain_path

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class StreamedSets:
    """Finds the training and evaluation sets of a streamed data set without downloading them.

    Without `path`, a set consists of the given files. With `path`, a set is a split of a folder, a
    URL or a data set on the hub. The README of a data set on the hub may assign files to splits.
    """

    path: str | None
    name: str | None
    revision: str | None
    bad_rows: BadRows

    def source(self) -> Source | None:
        """The splits at `path`; None if it is not set. Raises InputError and EnvironmentFault."""
        if self.path is None:
            return None
        splits = self._splits
        files = {} if self._on_hub else {name: list(map(Path, splits[name])) for name in splits}
        return Source(list(splits), lambda split: self._whole(splits[split], split), files)

    def shards(self, at: Paths, where: str) -> list[Shard]:
        """The shards of the files `at`; with a `path`, of the split `at`."""
        return shards_at(at, where) if self.path is None else shards_of(self._urls(at), where)

    def read(self, at: Paths, where: str) -> "Dataset":
        """A table of all rows of the files `at`; with a `path`, of the split `at`."""
        if self.path is not None:
            return self._whole(self._urls(at), where)
        first = at if isinstance(at, str) else at[0]
        if is_shard(first) and format_of(first) == "tar":
            return self._whole(urls_at(at, where), where)
        return read_files(at, where, ReadOptions(bad=self.bad_rows))

    def _whole(self, urls: Sequence[str], where: str) -> "Dataset":
        """A table of all rows of shards, for an evaluation set."""
        shards = shards_of(urls, where)
        parts = [_all_rows(shard, number) for number, shard in enumerate(shards)]
        names = tuple(shard.url for shard in shards)
        if not (parts := [part for part in parts if len(part)]):
            raise InputError(f"{where}: {names[0]}: no rows; at least one is needed")
        decoder = Decoder(shards[0].format, names, {})
        return decoder.table(joined(parts, names), self.bad_rows, where)

    def _urls(self, split: Paths) -> Sequence[str]:
        assert isinstance(split, str)
        return self._splits[split]

    @cached_property
    def _splits(self) -> Mapping[str, Sequence[str]]:
        """Split -> the paths or URLs of its shards."""
        assert self.path is not None
        if self._on_hub:
            return _hub(self.path, self.name, self.revision)
        if self.name is not None or self.revision is not None:
            key = "name" if self.name is not None else "revision"
            found = f"only hub data sets have one; {self.path} is a path"
            raise InputError(f"dataset.{key}: {found}")
        urls = urls_at(self.path, "dataset.path")
        if urls == [self.path.rstrip("/")] or self._place.is_file():
            return {"train": urls}
        files = {Path(url): url for url in urls}
        in_store = is_in_store(self.path)
        root = Path(root_and_glob(self.path)[0]) if in_store else root_of(self._place)
        splits = named_splits(list(files), root, "dataset.path")
        return {split: [files[file] for file in found] for split, found in splits.items()}

    @property
    def _place(self) -> Path:
        """`path` as a path of this machine."""
        return Path(os.path.expanduser(plain_path(self.path or "")))

    @property
    def _on_hub(self) -> bool:
        """Whether `path` names a data set on the hub."""
        return self.path is not None and is_hub_id(self.path) and not self._place.exists()


def _all_rows(shard: Shard, number: int) -> RawRows:
    reader = ShardReader(shard, number)
    try:
        return reader.take(0, MOST_ROWS)
    finally:
        reader.close()


def _hub(path: str, name: str | None, revision: str | None) -> Mapping[str, Sequence[str]]:
    """The files of each split, as `datasets` finds them; no code from the repository is run."""
    from datasets import load_dataset_builder

    where = f"dataset.path: hub data set '{path}'"
    try:
        builder = load_dataset_builder(path, name, revision=revision)
    except ConnectionError as error:
        found = first_line(error)
        raise EnvironmentFault(f"{where}: cannot be reached ({found})") from None
    except (OSError, ValueError, RuntimeError) as error:
        found = first_line(error)
        raise InputError(f"{where}: {found}; no file or folder has that path either") from None
    return {str(split): list(urls) for split, urls in (builder.config.data_files or {}).items()}
