"""Rows: loads and splits data sets from files or the hub, renames columns, and limits rows."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.data.file_lists import Paths, check_paths, shown_paths
from trainer.data.formats import ENDINGS
from trainer.data.read_options import DEFAULT_LIMIT, POLICIES, BadRows, ReadOptions
from trainer.data.renamed_columns import missing, renamed
from trainer.data.sources import Source, entries_at, read_entries, source_at
from trainer.data.splits import hold_out, limited, num_shared
from trainer.errors import InputError, RowError
from trainer.option_types import Options
from trainer.plurals import of_all, plural

if TYPE_CHECKING:
    from datasets import Dataset

    from trainer.data.mixed_rows import MixedRows
    from trainer.data.streaming.sharded_rows import ShardedRows

log = logging.getLogger("trainer")

IN_TRAIN_TOO = (
    "%s: %s is in dataset.train too, so its metrics do not measure the quality on new rows"
)


@dataclass(frozen=True)
class Splits:
    """The splits of a data set. A single validation set has the key ""."""

    train: "Dataset | MixedRows | ShardedRows | None" = None
    validation: dict[str, "Dataset"] = field(default_factory=dict)
    test: "Dataset | None" = None
    bad_rows: BadRows = field(default_factory=BadRows)
    """The policy for invalid rows, and the rows dropped while reading."""
    notes: tuple[str, ...] = ()
    """Notes for the user on how rows were split."""
    set_recipes: Mapping[str, object] = field(default_factory=dict)
    """Validation set -> the recipe options that differ for it, or a complete recipe."""
    sources: Mapping[str, "Splits"] = field(default_factory=dict)
    """Source of a mixture -> its validation and test sets, keyed by their names in the source."""

    @property
    def train_table(self) -> "Dataset | None":
        """The training rows as one table. Raises InputError for a stream or a mixture."""
        if self.train is None or hasattr(self.train, "with_format"):
            return self.train
        found = "a stream" if hasattr(self.train, "shards") else "a mixture"
        accepted = "accepted: a split that is a single table, such as dataset.validation"
        raise InputError(f"dataset.train: found {found}; {accepted}")


@dataclass(frozen=True)
class Files(Options, where="dataset"):
    """Rows from local files or the hub: a whole data set at `path`, or separate files per split.

    With `path`, the fields `train`, `validation` and `test` name splits of it. They default to the
    usual names (`dev` counts as validation). For a hub id they may be slices such as train[:80%].
    In a folder or glob, the names of files and folders determine the split: train.csv,
    imdb_test.csv, dev-00000-of-00002.parquet, test/part-0.parquet. If some files name a split and
    others do not, the set is refused. If none does, every row is a training row.

    Without `path`, each of the three fields names files: a file, a folder, a glob,
    pkg://package/folder, or a URL of an object store, which is copied to this machine. A field may
    also be a list of these, with different formats. `trainer.data.formats` lists the file formats,
    and `trainer.data.column_types` describes how cells get their types. Local files are read again
    by every load; downloads are cached by the hub's libraries. No code from a data set is executed
    and nothing is unpickled.
    """

    path: str | None = None
    """A hub id, a file, a folder, a glob, pkg://package/folder, a URL of an object store, or a
    folder that save_to_disk wrote."""
    name: str | None = None
    """The configuration of a hub data set, such as mrpc of nyu-mll/glue."""
    revision: str | None = None
    """The branch, tag or commit of a hub data set."""
    train: str | list[str] | None = None
    """Training rows: the name of a split in path or, without path, files: a.csv or [a.csv,b/]."""
    validation: Any = None
    """Validation rows, in the same form as train, or named sets: {matched: a, mismatched: b}."""
    test: str | list[str] | None = None
    """Test rows, in the same form as train."""
    columns: dict[str, str] = field(default_factory=dict)
    """Columns to rename, as {old name: new name}; without a header, old names are 0, 1, ..."""
    has_header: bool | None = None
    """Whether csv and tsv files start with a line of column names; null: true."""
    delimiter: str | None = None
    """The delimiter of csv and tsv files; null: comma for .csv, tab for .tsv."""
    encoding: str | None = None
    """The encoding of text files, such as cp1252; null: UTF-8, unless a byte order mark
    indicates another."""
    format: str | None = None
    """The format of all files, such as csv, jsonl or txt; null: each file's ending decides."""
    bad_rows: str = "error"
    """What to do with invalid rows: error ends the run; drop lists them in dropped.jsonl."""
    max_bad_rows: float = DEFAULT_LIMIT
    """The largest share of a data set's rows that may be dropped."""
    max_train_rows: int | None = None
    """The largest number of training rows, sampled with the seed; null: all."""
    max_eval_rows: int | None = None
    """The largest number of rows of each validation and test set, sampled; null: all."""
    validation_fraction: float = 0.1
    """Share of the training rows to hold out if there is no validation set; 0: none."""
    streaming: bool = False
    """Whether to read training rows during training, from shards (parquet, jsonl, tar) of any
    size."""
    shuffle_window: int = 8192
    """The number of rows of a stream that are shuffled together; more rows take more memory."""
    num_workers: int | None = None
    """The number of processes that tokenize a stream; 0: the training process does it; null: the
    number of cores decides."""
    stratify_by: str | None = None
    """Column by which held-out rows are stratified; null: the label, if it has classes."""
    seed: int = 0
    """Seed for choosing held-out rows and for sampling rows."""

    def __post_init__(self) -> None:
        check_amounts(self)
        self._check_paths()
        self._check_streaming()
        if self.bad_rows not in POLICIES:
            accepted = ", ".join(POLICIES)
            raise InputError(f"dataset.bad_rows: found '{self.bad_rows}'; accepted: {accepted}")
        if self.format is not None and f".{self.format}" not in ENDINGS:
            accepted = " ".join(ending[1:] for ending in ENDINGS)
            raise InputError(f"dataset.format: found '{self.format}'; accepted: {accepted}")
        if not 0 <= self.max_bad_rows <= 1:
            raise InputError(f"dataset.max_bad_rows: {self.max_bad_rows}; accepted: from 0 to 1")
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n'):
            found = repr(self.delimiter)
            raise InputError(f"dataset.delimiter: found {found}; accepted: one character, no quote")

    def _check_paths(self) -> None:
        if not isinstance(self.validation, str | list | tuple | Mapping | None):
            accepted = "a split or file, or a mapping of several named ones"
            raise InputError(f"dataset.validation: {self.validation!r}; accepted: {accepted}")
        if self.path is not None:
            check_paths(self.path, "dataset.path")
        for key in ("train", "validation", "test"):
            given = getattr(self, key)
            if self.path is None:  # else the name of a split; without a name, the usual split
                check_paths(given, f"dataset.{key}")
            entries = given.values() if isinstance(given, Mapping) else [given]
            if self.path is not None and any(isinstance(each, list | tuple) for each in entries):
                raise InputError(
                    f"dataset.{key}: a list of files, but dataset.path is set; accepted: the name "
                    "of one split, or dataset.path=null"
                )

    def _check_streaming(self) -> None:
        """Raise InputError for settings that do not fit a stream."""
        if self.shuffle_window < 1:
            found = f"found {self.shuffle_window}"
            raise InputError(f"dataset.shuffle_window: {found}; accepted: a number above 0")
        if self.num_workers is not None and self.num_workers < 0:
            raise InputError(f"dataset.num_workers: found {self.num_workers}; accepted: 0 or more")
        of_tables = ("has_header", "delimiter", "encoding", "format", "max_train_rows")
        for key in (*of_tables, "stratify_by") if self.streaming else ():
            if getattr(self, key) is not None:
                found = f"found {getattr(self, key)} with dataset.streaming=true"
                raise InputError(f"dataset.{key}: {found}; accepted: null")
        if self.num_workers is not None and not self.streaming:
            found = f"found {self.num_workers}; it is for dataset.streaming=true"
            raise InputError(f"dataset.num_workers: {found}; accepted: null")

    def load(self, label: str = "label") -> Splits:
        """The splits, with columns renamed and rows limited. Raises InputError.

        Held-out rows are stratified by `stratify_by` or, if it is null, by the column `label`.
        """
        bad_rows = BadRows(self.bad_rows, self.max_bad_rows)
        if self.streaming:
            return self._streamed(bad_rows)
        rows = self._splits(bad_rows)
        notes = []
        train, test = rows.pop("train", None), rows.pop("test", None)
        validation = {key.removeprefix("validation").lstrip("."): rows[key] for key in rows}
        if train is not None and validation:
            notes = _shared_rows(train, validation)
        elif train is not None and self.validation_fraction:
            column = self.stratify_by or label
            if self.stratify_by is not None and column not in train.column_names:
                raise InputError(f"dataset.stratify_by: {missing(column, train.column_names)}")
            held = hold_out(train, self.validation_fraction, self.seed, "dataset.train", column)
            train, validation, notes = held.train, {"": held.held_out}, [held.note]
        return Splits(
            train=None if train is None else limited(train, self.max_train_rows, self.seed),
            validation={name: self._evaluated(rows) for name, rows in validation.items()},
            test=None if test is None else self._evaluated(test),
            bad_rows=bad_rows,
            notes=tuple(notes),
        )

    def _streamed(self, bad_rows: BadRows) -> Splits:
        """The training rows as shards that are not read yet, and the other sets as tables.

        With `path`, only the shards of the wanted splits are read or downloaded.
        """
        from trainer.data.streaming.sharded_rows import ShardedRows
        from trainer.data.streaming.split_shards import StreamedSets

        sets = StreamedSets(self.path, self.name, self.revision, bad_rows)
        wanted = self._wanted(source := sets.source())
        if source is not None:
            for key, split in wanted.items():
                source.check(split, f"dataset.{key}")
            _warn_of_split_twice(wanted, source)
            source.refuse_unused(wanted.values(), "dataset.path")
        if (train := wanted.pop("train", None)) is None:
            raise InputError("dataset.train: no shards to train on; accepted: files, or a split")
        shards = tuple(sets.shards(train, "dataset.train"))
        others = {
            key: self._evaluated(self._checked(sets.read(at, f"dataset.{key}"), key, at))
            for key, at in wanted.items()
        }
        test = others.pop("test", None)
        number = plural(len(shards), "shard")
        held_out = "" if others else "; no rows are held out (dataset.validation can name some)"
        return Splits(
            train=ShardedRows(shards, self.columns, self.shuffle_window, self.num_workers),
            validation={key.removeprefix("validation").lstrip("."): others[key] for key in others},
            test=test,
            bad_rows=bad_rows,
            notes=(f"dataset.train: a stream of {number}{held_out}",),
        )

    def _evaluated(self, rows: "Dataset") -> "Dataset":
        return limited(rows, self.max_eval_rows, self.seed)

    def _splits(self, bad: BadRows) -> dict[str, "Dataset"]:
        """Key (train, validation or validation.<name>, test) -> rows with renamed columns."""
        header = self.has_header is not False
        reading = ReadOptions(header, self.encoding, self.delimiter, self.format, bad)
        if self.path is None:
            wanted = self._wanted(None)
            files = {key: entries_at(at, f"dataset.{key}") for key, at in wanted.items()}
            _warn_of_files_twice(files)
            found = {key: read_entries(files[key], f"dataset.{key}", reading) for key in wanted}
        else:
            source = source_at(self.path, self.name, self.revision, reading)
            wanted = self._wanted(source)
            for key, split in wanted.items():
                source.check(split, f"dataset.{key}")
            _warn_of_split_twice(wanted, source)
            source.refuse_unused(wanted.values(), "dataset.path")
            found = {key: source.read(split) for key, split in wanted.items()}
        return {key: self._checked(rows, key, wanted[key]) for key, rows in found.items()}

    def _wanted(self, source: Source | None) -> dict[str, Any]:
        """Key -> its split or files, for keys that are set and for splits with a usual name."""
        wanted = {"train": self.train, "validation": self.validation, "test": self.test}
        if isinstance(self.validation, Mapping):
            del wanted["validation"]
            wanted |= {f"validation.{name}": at for name, at in self.validation.items()}
        if source is not None:
            wanted = {k: at or source.usual(k.split(".")[0]) for k, at in wanted.items()}
        found = {key: at for key, at in wanted.items() if at is not None}
        if not found and source is None:
            raise InputError("dataset: nothing to load; give dataset.path or dataset.train")
        if not found:
            existing = ", ".join(source.names) if source else ""
            raise InputError(
                f"dataset.train: {self.path} has no split of a usual name; it has {existing}"
            )
        return found

    def _checked(self, rows: "Dataset", key: str, at: Paths) -> "Dataset":
        """The rows with columns renamed. Test rows may lack columns: labels are often withheld."""
        found = shown_paths(at) if self.path is None else f"{self.path}, split {at}"
        where = f"dataset.{key}: {found}"
        if not len(rows):
            raise InputError(f"{where}: no rows; at least one is needed")
        columns = {str(found): wanted for found, wanted in self.columns.items()}
        if key == "test":
            columns = {old: new for old, new in columns.items() if old in rows.column_names}
        return renamed(rows, columns, f"dataset.columns: {where}")


def text_column(rows: "Dataset | Mapping[str, Sequence[Any]]", name: str, key: str) -> list[str]:
    """A column of texts. Cells are converted to texts if all are numbers (such as 2024 in csv).

    Raises InputError, which names the setting `key`, if the column is missing, and RowError for a
    row without a text.
    """
    texts = label_column(rows, name, key)
    if set(map(type, texts)) <= {int, float}:
        return list(map(str, texts))
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise RowError(row, f"'{name}' is {text!r:.60} ({type(text).__name__}); accepted: text")
    return texts


def label_column(rows: "Dataset | Mapping[str, Sequence[Any]]", name: str, key: str) -> list[Any]:
    """A column that must not hold nulls. Raises InputError and RowError, like `text_column`."""
    values = column_of(rows, name, key)
    for row, value in enumerate(values):
        if value is None:
            raise RowError(row, f"'{name}' is null; every row needs one")
    return values


def column_of(rows: "Dataset | Mapping[str, Sequence[Any]]", name: str, key: str) -> list[Any]:
    """The cells of a column. Raises InputError, which names the setting `key`, if it is missing."""
    if name not in (rows if isinstance(rows, Mapping) else rows.column_names):
        names = list(rows) if isinstance(rows, Mapping) else rows.column_names
        raise InputError(f"{key}: {missing(name, names)}")
    if isinstance(rows, Mapping):
        return list(rows[name])
    # faster than indexing the column, which would convert cell by cell
    return list(rows.select_columns(name).with_format(None)[:][name])


def check_amounts(source: Any) -> None:
    """Raise InputError for row limits below 1 and a validation_fraction outside [0, 1)."""
    for name in ("max_train_rows", "max_eval_rows"):
        value = getattr(source, name)
        if value is not None and value < 1:
            raise InputError(f"dataset.{name}: {value}; accepted: a number above 0, or null")
    if not 0 <= source.validation_fraction < 1:
        found = source.validation_fraction
        raise InputError(f"dataset.validation_fraction: {found}; accepted: at least 0 and below 1")


def _warn_of_split_twice(wanted: Mapping[str, str], source: Source) -> None:
    train = wanted.get("train", "")
    for key, split in wanted.items():
        both = set(source.files.get(split, ())) & set(source.files.get(train, ()))
        if key != "train" and (split == train or both):
            log.warning(IN_TRAIN_TOO, f"dataset.{key}", split)


def _warn_of_files_twice(listed: Mapping[str, Sequence[Sequence[Path]]]) -> None:
    """Warn of training files that are in other sets. `listed`: key -> the files of its entries."""
    files = {key: {file.resolve() for at in found for file in at} for key, found in listed.items()}
    for key, others in files.items():
        for file in sorted(others & files.get("train", set())) if key != "train" else ():
            log.warning(IN_TRAIN_TOO, f"dataset.{key}", file)


def _shared_rows(train: "Dataset", validation: Mapping[str, "Dataset"]) -> list[str]:
    """Note how many rows each set shares with the training rows; warn if there are any."""
    notes = []
    for name, rows in validation.items():
        key = f"dataset.validation.{name}" if name else "dataset.validation"
        shared = num_shared(rows, train)
        none = f"none of {plural(len(rows), 'row')} is"
        found = of_all(shared, len(rows), "row") if shared else none
        note = f"{key}: {found} in dataset.train too"
        notes.append(note)
        if shared:
            log.warning(note)
    return notes
