"""Rows: what a data source loads; files and hub sets, split, renamed and limited."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainer.data.places import inherit
from trainer.data.reading import DEFAULT_LIMIT, POLICIES, BadRows, Reading
from trainer.data.sources import Source, files_at, read_files, source_at
from trainer.data.splits import hold_out, limited, num_shared
from trainer.errors import InputError, RowError, nearest

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Splits:
    """What a data source loads. A single, unnamed validation set has the key ""."""

    train: "Dataset | None" = None
    validation: dict[str, "Dataset"] = field(default_factory=dict)
    test: "Dataset | None" = None
    bad_rows: BadRows = field(default_factory=BadRows)
    """What is done with bad rows, and those that were dropped while reading."""
    notes: tuple[str, ...] = ()
    """What the user should know of the split: what was held out, and how."""


@dataclass(frozen=True)
class Files:
    """Rows from files or the hub: the whole set by its `path`, or the splits one by one.

    With `path`, `train`, `validation` and `test` are names of its splits, by default the usual
    ones (dev, say); of a hub id also slices, such as train[:80%]. In a folder or a glob the names
    of files or folders tell the splits: train.csv, imdb_test.csv, dev-00000-of-00002.parquet,
    test/part-0.parquet; a file that tells none beside others that do is refused. Where no file has
    a usual name, all are training rows, and so is a single file. Without `path` each of the three
    is files of its own. Files are a path, a folder, a glob or pkg://package/folder, in the formats
    of trainer/data/formats.py, with cells as trainer/data/cells.py says, read anew by every load.
    What comes from the hub is cached by its own libraries. No code of a data set is run, and
    nothing is unpickled.
    """

    path: str | None = None
    """A hub id, file, folder, glob, pkg://package/folder, or a folder that save_to_disk wrote."""
    name: str | None = None
    """The configuration of a hub id, such as mrpc of nyu-mll/glue."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    train: str | None = None
    """Training rows: a split's name, or files where path is null."""
    validation: Any = None
    """Validation rows, as train; or several named sets, such as {matched: a, mismatched: b}."""
    test: str | None = None
    """Test rows, as train."""
    columns: dict[str, str] = field(default_factory=dict)
    """New names of columns, as found: wanted; without a header found is a number, from 0."""
    has_header: bool | None = None
    """Whether csv and tsv files open with a line of column names; null: they do."""
    delimiter: str | None = None
    """What stands between the cells of csv and tsv files; null: a comma or a tab, by the ending."""
    encoding: str | None = None
    """Of text files, such as cp1252; null: UTF-8, or what a byte order mark says."""
    bad_rows: str = "error"
    """Rows that cannot be used: error ends the run, drop leaves them out (see dropped.jsonl)."""
    max_bad_rows: float = DEFAULT_LIMIT
    """The share of a set's rows that may be dropped; more end the run."""
    max_train_rows: int | None = None
    """At most so many training rows, sampled with the seed; null: all."""
    max_eval_rows: int | None = None
    """At most so many rows of each validation and test set, sampled with the seed; null: all."""
    validation_fraction: float = 0.1
    """Share of the training rows to hold out where there is no validation set; 0: none."""
    stratify_by: str | None = None
    """Column whose values are held out in equal shares; null: the label, where it has classes."""
    seed: int = 0
    """Which rows are held out, and which a row limit takes."""

    def __post_init__(self) -> None:
        check_amounts(self)
        if not isinstance(self.validation, str | Mapping | None):
            accepted = "a split or file, or a mapping of several named ones"
            raise InputError(f"dataset.validation: {self.validation!r}; accepted: {accepted}")
        if self.bad_rows not in POLICIES:
            accepted = ", ".join(POLICIES)
            raise InputError(f"dataset.bad_rows: found '{self.bad_rows}'; accepted: {accepted}")
        if not 0 <= self.max_bad_rows <= 1:
            raise InputError(f"dataset.max_bad_rows: {self.max_bad_rows}; accepted: from 0 to 1")
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n'):
            found = repr(self.delimiter)
            raise InputError(f"dataset.delimiter: found {found}; accepted: one character, no quote")

    def load(self, label: str = "label") -> Splits:
        """The splits, renamed and limited. Raises InputError at the first thing that is wrong.

        What is held out is stratified by `stratify_by`, or else by the column `label`.
        """
        bad_rows = BadRows(self.bad_rows, self.max_bad_rows)
        rows = self._splits(bad_rows)
        notes = []
        train, test = rows.pop("train", None), rows.pop("test", None)
        validation = {key.removeprefix("validation").lstrip("."): rows[key] for key in rows}
        if train is not None and validation:
            notes = _shared_rows(train, validation)
        elif train is not None and self.validation_fraction:
            column = self.stratify_by or label
            if self.stratify_by is not None and column not in train.column_names:
                raise InputError(f"dataset.stratify_by: {_missing(column, train.column_names)}")
            held = hold_out(train, self.validation_fraction, self.seed, "dataset.train", column)
            train, validation, notes = held.train, {"": held.held_out}, [held.note]
        return Splits(
            train=None if train is None else limited(train, self.max_train_rows, self.seed),
            validation={name: self._evaluated(rows) for name, rows in validation.items()},
            test=None if test is None else self._evaluated(test),
            bad_rows=bad_rows,
            notes=tuple(notes),
        )

    def _evaluated(self, rows: "Dataset") -> "Dataset":
        return limited(rows, self.max_eval_rows, self.seed)

    def _splits(self, bad: BadRows) -> dict[str, "Dataset"]:
        """The renamed rows by key: train, validation or validation.<name>, test."""
        reading = Reading(self.has_header is not False, self.encoding, self.delimiter, bad)
        if self.path is None:
            wanted = self._wanted(None)
            _refuse_files_twice(wanted)
            found = {key: read_files(at, f"dataset.{key}", reading) for key, at in wanted.items()}
        else:
            source = source_at(self.path, self.name, self.revision, reading)
            wanted = self._wanted(source)
            for key, split in wanted.items():
                source.check(split, f"dataset.{key}")
            _refuse_split_twice(wanted, source)
            source.refuse_unused(wanted.values(), "dataset.path")
            found = {key: source.read(split) for key, split in wanted.items()}
        return {key: self._checked(rows, key, wanted[key]) for key, rows in found.items()}

    def _wanted(self, source: Source | None) -> dict[str, str]:
        """The split or files of each key that has some."""
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
            there = ", ".join(source.names) if source else ""
            raise InputError(
                f"dataset.train: {self.path} has no split of a usual name; it has {there}"
            )
        return found

    def _checked(self, rows: "Dataset", key: str, at: str) -> "Dataset":
        """The rows renamed. A test set may lack columns, since its labels are often withheld."""
        where = f"dataset.{key}: {at if self.path is None else f'{self.path}, split {at}'}"
        if not len(rows):
            raise InputError(f"{where}: no rows; at least one is needed")
        columns = {str(found): wanted for found, wanted in self.columns.items()}
        if key == "test":
            columns = {old: new for old, new in columns.items() if old in rows.column_names}
        return renamed(rows, columns, f"dataset.columns: {where}")


def renamed(rows: "Dataset", columns: Mapping[str, str], where: str) -> "Dataset":
    """The rows with other column names, {found: wanted}. Unknown and clashing names are refused."""
    for found in columns:
        if found not in rows.column_names:
            digits = found.isdigit() and "; for a file without a header, has_header=false"
            raise InputError(f"{where}: {_missing(found, rows.column_names)}{digits or ''}")
    names = [columns.get(name, name) for name in rows.column_names]
    for name in names:
        if names.count(name) > 1:
            both = [old for old, new in zip(rows.column_names, names, strict=True) if new == name]
            raise InputError(f"{where}: {' and '.join(both)} would both be '{name}'; rename one")
    return inherit(rows.rename_columns(dict(columns)), rows) if columns else rows


def text_column(rows: "Dataset | Mapping[str, Sequence[Any]]", name: str, key: str) -> list[str]:
    """A column of texts. One of numbers alone is printed: csv files have texts such as 2024.

    Raises InputError, naming the setting `key`, if there is no such column, and RowError for a row
    that has no text.
    """
    texts = label_column(rows, name, key)
    if set(map(type, texts)) <= {int, float}:
        return list(map(str, texts))
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise RowError(row, f"'{name}' is {text!r:.60} ({type(text).__name__}); accepted: text")
    return texts


def label_column(rows: "Dataset | Mapping[str, Sequence[Any]]", name: str, key: str) -> list[Any]:
    """A column without nulls, as it is. Raises as `text_column` does."""
    values = column_of(rows, name, key)
    for row, value in enumerate(values):
        if value is None:
            raise RowError(row, f"'{name}' is null; every row needs one")
    return values


def column_of(rows: "Dataset | Mapping[str, Sequence[Any]]", name: str, key: str) -> list[Any]:
    """A column as it is. Raises InputError, naming the setting `key`, if there is no such one."""
    names = list(rows) if isinstance(rows, Mapping) else rows.column_names
    if name not in names:
        raise InputError(f"{key}: {_missing(name, names)}")
    if isinstance(rows, Mapping):
        return list(rows[name])
    # a whole batch of a table converts in one go; its column alone would convert cell by cell
    return list(rows.select_columns(name).with_format(None)[:][name])


def check_amounts(source: Any) -> None:
    """Refuse row limits below 1 and a validation_fraction outside [0, 1)."""
    for name in ("max_train_rows", "max_eval_rows"):
        value = getattr(source, name)
        if value is not None and value < 1:
            raise InputError(f"dataset.{name}: {value}; accepted: a number above 0, or null")
    if not 0 <= source.validation_fraction < 1:
        found = source.validation_fraction
        raise InputError(f"dataset.validation_fraction: {found}; accepted: from 0 to below 1")


def _missing(name: str, names: Sequence[str]) -> str:
    there = ", ".join(f"{there:.40}" for there in names)
    return f"no column '{name}'; there are: {there}{nearest(name, names)}"


def _refuse_split_twice(wanted: Mapping[str, str], source: Source) -> None:
    train = wanted.get("train", "")
    for key, split in wanted.items():
        both = set(source.files.get(split, ())) & set(source.files.get(train, ()))
        if key != "train" and (split == train or both):
            raise InputError(f"dataset.{key}: {split} is dataset.train too; they must differ")


def _refuse_files_twice(wanted: Mapping[str, str]) -> None:
    files = {
        key: {file.resolve() for file in files_at(at, f"dataset.{key}")}
        for key, at in wanted.items()
    }
    for key, others in files.items():
        for file in sorted(others & files.get("train", set())) if key != "train" else ():
            raise InputError(f"dataset.{key}: {file} is in dataset.train too; they must differ")


def _shared_rows(train: "Dataset", validation: Mapping[str, "Dataset"]) -> list[str]:
    """How many rows each set shares with the training rows; warns where some are."""
    notes = []
    for name, rows in validation.items():
        key = f"dataset.validation.{name}" if name else "dataset.validation"
        shared = num_shared(rows, train)
        note = f"{key}: {shared or 'none'} of {len(rows)} rows are in dataset.train too"
        notes.append(note)
        if shared:
            log.warning(note)
    return notes
