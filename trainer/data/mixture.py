"""Mixture: a data set that combines several others, each with its own share and options."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from trainer.data.mixed_rows import Blend, MixedRows, SourceRows, Until, source_key
from trainer.data.read_options import DEFAULT_LIMIT, POLICIES, BadRows
from trainer.data.renamed_columns import renamed
from trainer.data.rows import Files, Splits
from trainer.data.splits import limited
from trainer.errors import InputError
from trainer.option_types import Options

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Source(Options, where="dataset.mixture"):
    """A source of a mixture."""

    dataset: Any
    """The name of a file in configs/dataset, a path of rows, or keys of dataset=files, such as
    {train: a.jsonl}."""
    weight: float | None = None
    """The weight in the mixture. If all are null, sources are weighted by their sizes."""
    epochs: float | None = None
    """Passes over the source in an epoch of the mixture, instead of a weight."""
    max_rows: int | None = None
    """The largest number of training rows, sampled with the seed; null: all."""
    columns: dict[str, str] = field(default_factory=dict)
    """Columns to rename, as {old name: new name}."""
    recipe: Any = field(default_factory=dict)
    """Recipe options that differ for this source; `_target_` gives it another recipe."""


@dataclass(frozen=True)
class Mixture(Options, where="dataset"):
    """Training rows from several data sets, in fixed shares; each data set is evaluated separately.

    The samples of a step depend only on the seed and the step, not on the number of processes. Each
    pass over a source has a new order. A new epoch of the mixture continues each source where the
    previous epoch stopped.
    """

    mixture: dict[str, Source] = field(default_factory=dict)
    """The sources, as {NAME: {dataset: a.jsonl, weight: 2, max_rows: 1000}, ...}."""
    temperature: float = 1.0
    """Weights are raised to the power of 1 / temperature: a temperature above 1 makes the shares
    more equal."""
    until: Until = "rows"
    """When an epoch ends: rows (after as many samples as all sources have together), first (after a
    full pass over one source) or all (after a full pass over every source)."""
    bad_rows: str = "error"
    """What to do with invalid rows: error ends the run, drop skips them (see dropped.jsonl)."""
    max_bad_rows: float = DEFAULT_LIMIT
    """The largest share of a source's rows that may be dropped."""
    seed: int = 0
    """Seed for sampling the rows of sources with max_rows."""

    holds_sources: ClassVar[str] = "mixture"
    """The name of the field whose entries are each built as a `Source`."""

    def __post_init__(self) -> None:
        if self.bad_rows not in POLICIES:
            accepted = ", ".join(POLICIES)
            raise InputError(f"dataset.bad_rows: found '{self.bad_rows}'; accepted: {accepted}")
        if not 0 <= self.max_bad_rows <= 1:
            raise InputError(f"dataset.max_bad_rows: {self.max_bad_rows}; accepted: from 0 to 1")
        for name, source in self.mixture.items():
            if source.max_rows is not None and source.max_rows < 1:
                found = f"found {source.max_rows}; accepted: a number above 0, or null"
                raise InputError(f"{source_key(name)}.max_rows: {found}")
        if self.mixture:  # without a source, `load` raises an error
            _ = self.blend

    @property
    def blend(self) -> Blend:
        """The proportions of the sources. Raises InputError for contradictory settings."""
        return Blend(
            {name: source.weight for name, source in self.mixture.items()},
            {name: source.epochs for name, source in self.mixture.items()},
            self.temperature,
            self.until,
        )

    def load(self, label: str = "label") -> Splits:
        """The mixed training rows, and the evaluation sets of all sources.

        The evaluation set `part` of the source `a` is named a_part. Raises InputError, which names
        the source at fault.
        """
        _ = self.blend
        bad_rows = BadRows(self.bad_rows, self.max_bad_rows)
        rows: dict[str, SourceRows] = {}
        held_out: dict[str, Dataset] = {}
        sources: dict[str, Splits] = {}
        recipes: dict[str, object] = {}
        notes: list[str] = []
        for name, source in self.mixture.items():
            splits = self._loaded(source, name, label)
            bad_rows.dropped.extend(splits.bad_rows.dropped)
            notes += [f"{name}: {note}" for note in splits.notes]
            train = splits.train
            assert train is None or hasattr(train, "select"), "a table"
            if train is not None:
                train = limited(train, source.max_rows, self.seed)
                rows[name] = SourceRows(train, source.weight, source.epochs, source.recipe)
            sources[name] = Splits(validation=splits.validation, test=splits.test)
            sets = {set_name(name, part): s for part, s in splits.validation.items()}
            if twice := sets.keys() & held_out.keys():
                accepted = "accepted: other names for the sources"
                raise InputError(f"dataset.mixture: two sets are named {min(twice)}; {accepted}")
            held_out |= sets
            recipes |= dict.fromkeys(sets, source.recipe)
        if missing := [name for name in self.mixture if rows and name not in rows]:
            accepted = "accepted: a data set with training rows"
            raise InputError(f"{source_key(missing[0])}: nothing to train on; {accepted}")
        mixed = MixedRows(rows, self.temperature, self.until) if rows else None
        return Splits(mixed, held_out, None, bad_rows, tuple(notes), recipes, sources)

    def _loaded(self, source: Source, name: str, label: str) -> Splits:
        """The splits of a source, with renamed columns."""
        dataset = source.dataset
        if isinstance(dataset, Files) and self.bad_rows == "drop":
            dataset = replace(dataset, bad_rows="drop", max_bad_rows=self.max_bad_rows)
        try:
            of_files = getattr(type(dataset), "load", None) is Files.load
            label = _label_in_files(source, label)
            splits: Splits = dataset.load(label) if of_files else dataset.load()
        except InputError as error:
            raise InputError(f"{source_key(name)}: {error}") from error
        if isinstance(splits.train, MixedRows):
            found = "found a mixture inside of a mixture"
            raise InputError(f"{source_key(name)}.dataset: {found}; accepted: another data set")
        if getattr(dataset, "streaming", False):
            found = "found true inside of a mixture"
            raise InputError(f"{source_key(name)}.dataset.streaming: {found}; accepted: false")
        if not source.columns:
            return splits
        where = f"{source_key(name)}.columns"
        train = None if splits.train is None else renamed(splits.train, source.columns, where)
        sets = {n: renamed(each, source.columns, where) for n, each in splits.validation.items()}
        test = splits.test
        if test is not None:  # test rows may lack columns: labels are often withheld
            there = {old: new for old, new in source.columns.items() if old in test.column_names}
            test = renamed(test, there, where)
        return replace(splits, train=train, validation=sets, test=test)


def set_name(source: str, part: str) -> str:
    """The name of a source's evaluation set; `part` is its name in the source, often empty."""
    return f"{source}_{part}".rstrip("_")


def _label_in_files(source: Source, label: str) -> str:
    """The column by which a source's rows are stratified, by its name before renaming."""
    options = source.recipe
    if isinstance(options, Mapping):
        given = options.get("label")
    else:
        given = getattr(options, "label", None)
    label = given if isinstance(given, str) else label
    return {new: old for old, new in source.columns.items()}.get(label, label)
