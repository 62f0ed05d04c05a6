"""MixedRows: the training rows of several sources, and the proportions in which to mix them."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, get_args

from trainer.errors import InputError

Until = Literal["rows", "first", "all"]
AnyRows: TypeAlias = Any
"""Rows of any kind that `Trainer` accepts; the sources of `MixedRows` have tables."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Blend:
    """The proportions of the sources in a mixture.

    The constructor raises InputError if they are contradictory.
    """

    weights: Mapping[str, float | None]
    """Source -> its weight. If all are None, each source is weighted by its number of samples"""
    epochs: Mapping[str, float | None]
    """Source -> passes over it in an epoch of the mixture. All are None if weights define the
    mixture"""
    temperature: float = 1.0
    """Weights are raised to the power of 1 / temperature: a temperature above 1 makes the shares
    more equal."""
    until: Until = "rows"
    """When an epoch ends: rows (after as many samples as all sources have together), first (after a
    full pass over one source) or all (after a full pass over every source)."""

    def __post_init__(self) -> None:
        if not self.weights:
            raise InputError("dataset.mixture: found no source; accepted: {NAME: {dataset: ...}}")
        for name in self.weights:
            if not NAME.fullmatch(name):
                accepted = "accepted: letters, digits, _ and -"
                raise InputError(f"dataset.mixture: found the name '{name}'; {accepted}")
            if (
                name.partition("_")[0] == "eval"
            ):  # its loss would be logged like that of an evaluation
                accepted = "accepted: names that do not begin with eval"
                raise InputError(f"dataset.mixture: found the name '{name}'; {accepted}")
        _check_numbers("weight", self.weights, least_excluded=False)
        _check_numbers("epochs", self.epochs, least_excluded=True)
        if self.by_epochs and any(weight is not None for weight in self.weights.values()):
            raise InputError(
                "dataset.mixture: found weight and epochs; accepted: one of them for all sources"
            )
        _check_form(self)

    @property
    def by_epochs(self) -> bool:
        """Whether the sources have numbers of passes instead of weights."""
        return any(passes is not None for passes in self.epochs.values())


def _check_numbers(key: str, numbers: Mapping[str, float | None], *, least_excluded: bool) -> None:
    """Raise InputError if only some sources have a number, if one is invalid, or if all are 0."""
    accepted = "a number above 0" if least_excluded else "a number of 0 or more"
    given = {name: number for name, number in numbers.items() if number is not None}
    for name, number in given.items():
        good = math.isfinite(number) and (number > 0 if least_excluded else number >= 0)
        if not good:
            where = f"dataset.mixture.{name}.{key}"
            raise InputError(f"{where}: found {number}; accepted: {accepted}")
    missing = [name for name in numbers if name not in given]
    if given and missing:
        found = f"nothing given, but '{next(iter(given))}' has one"
        accepted = "one for every source, or for none"
        raise InputError(f"dataset.mixture.{missing[0]}.{key}: {found}; accepted: {accepted}")
    if given and not any(given.values()):
        raise InputError(f"dataset.mixture: each {key} is 0; accepted: at least one above 0")


def _check_form(blend: Blend) -> None:
    found = blend.temperature
    if not (math.isfinite(found) and found > 0):
        raise InputError(f"dataset.temperature: found {found}; accepted: a number above 0")
    if blend.until not in get_args(Until):
        accepted = ", ".join(get_args(Until))
        raise InputError(f"dataset.until: found '{blend.until}'; accepted: {accepted}")
    if blend.by_epochs and (found != 1 or blend.until != "rows"):
        key = "temperature" if found != 1 else "until"
        reason = "the sources set epochs, which alone determine the mixture"
        raise InputError(f"dataset.{key}: {reason}; accepted: the default, or weights")


@dataclass(frozen=True)
class SourceRows:
    """The training rows of one source, and its options."""

    rows: AnyRows
    """A data set with indexed rows, of any kind that `Trainer` accepts, such as a list of dicts."""
    weight: float | None = None
    """The weight in the mixture. If all are None, sources are weighted by their sizes."""
    epochs: float | None = None
    """Passes over the source in an epoch of the mixture, instead of a weight."""
    recipe: object = field(default_factory=dict)
    """A mapping of the recipe options that differ for this source, or a complete `Recipe`."""


@dataclass(frozen=True)
class MixedRows:
    """Training rows of several sources, to be mixed by weights or by numbers of passes.

    The rows of each source become a table. A source without options may be given as its rows
    instead of a `SourceRows`. The constructor raises InputError for invalid proportions, for rows
    that cannot become a table, and for a source without rows.
    """

    sources: Mapping[str, SourceRows]
    temperature: float = 1.0
    until: Until = "rows"

    def __post_init__(self) -> None:
        if not isinstance(self.sources, Mapping):
            found = f"found a {type(self.sources).__name__}"
            raise InputError(f"dataset.mixture: {found}; accepted: {{NAME: SourceRows(rows)}}")
        tables = {name: _of_table(source, name) for name, source in self.sources.items()}
        object.__setattr__(self, "sources", tables)
        _ = self.blend
        for name, source in tables.items():
            if len(source.rows) == 0:
                raise InputError(f"{source_key(name)}: found no rows; at least one is needed")

    @property
    def blend(self) -> Blend:
        """The proportions of the sources."""
        return Blend(
            {name: source.weight for name, source in self.sources.items()},
            {name: source.epochs for name, source in self.sources.items()},
            self.temperature,
            self.until,
        )

    def __len__(self) -> int:
        """The number of rows of all sources."""
        return sum(len(source.rows) for source in self.sources.values())


def _of_table(source: object, name: str) -> SourceRows:
    """The source with its rows as a table. Raises InputError for rows that cannot become one."""
    from trainer.data.in_memory_rows import as_table, is_stream

    given = source if isinstance(source, SourceRows) else SourceRows(source)
    if is_stream(given.rows):
        found = f"found a {type(given.rows).__name__}, which can only be read in order"
        raise InputError(f"{source_key(name)}: {found}; accepted: a data set with indexed rows")
    return replace(given, rows=as_table(given.rows, source_key(name)))


def source_key(name: str) -> str:
    """The config key of a source, for error messages."""
    return f"dataset.mixture.{name}"
