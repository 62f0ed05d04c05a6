"""SetFacts: statistics of a data set: lengths, classes, copies, and overlaps with other sets."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from trainer.data.batch import Samples
from trainer.data.mixed_rows import source_key
from trainer.data.mixture_samples import MixtureSamples
from trainer.data.near_copies import Copies, Signatures, Texts
from trainer.data.task_samples import TaskSamples
from trainer.data.tokens import TokenTable
from trainer.tasks.recipe import Recipe

QUANTILES = {"shortest": 0.0, "median": 0.5, "p95": 0.95, "p99": 0.99, "longest": 1.0}


@dataclass(frozen=True)
class Prepared:
    """A set of samples with its recipe."""

    table: Samples
    recipe: Recipe
    trained_on: bool
    """True for training samples, false for evaluation samples."""


@dataclass(frozen=True)
class SetFacts:
    """Statistics of a set of samples."""

    samples: int
    tokens: int
    lengths: Mapping[str, int]
    """Quantile of the lengths in tokens -> its value; see QUANTILES"""
    truncated: int = 0
    """Rows that were cut to the maximum length"""
    dropped: int = 0
    """Rows that were left out as invalid"""
    classes: Mapping[str, int] = field(default_factory=dict)
    """Label -> number of samples"""
    copies: Copies | None = None
    """The samples that are copies of others in the set; for blocks, documents are compared"""
    trained: Mapping[str, Copies] = field(default_factory=dict)
    """For an evaluation set: training set -> the samples of this set that are copies from it"""


def tables_of(
    samples: Samples, recipe: Recipe, where: str, trained_on: bool
) -> Iterator[tuple[str, Prepared]]:
    """Yield the tables of a set with their names: a single one, or one for each source or task."""
    if isinstance(samples, MixtureSamples):
        for name, table in samples.tables.items():
            yield source_key(name), Prepared(table, samples.recipes[name], trained_on)
    elif isinstance(samples, TaskSamples):
        tasks: Mapping[str, Recipe] = recipe.tasks  # type: ignore[attr-defined]
        for name, table in samples.tables.items():
            yield f"{where}, task {name}", Prepared(table, tasks[name], trained_on)
    else:
        yield where, Prepared(samples, recipe, trained_on)


def facts_of(sets: Mapping[str, Prepared], near: bool) -> dict[str, SetFacts]:
    """The statistics of each set. With `near`, nearly equal samples count as copies, too."""
    signatures = {
        name: Signatures(Texts.of(each.table), near)
        for name, each in sets.items()
        if isinstance(each.table, TokenTable)
    }
    found = {}
    for name, each in sets.items():
        own = signatures.get(name)
        trained = {
            other: signatures[other].copies_in(own)
            for other, prepared in sets.items()
            if own is not None and prepared.trained_on and other in signatures
        }
        found[name] = _facts(each, own, {} if each.trained_on else trained)
    return found


def _facts(each: Prepared, own: Signatures | None, trained: Mapping[str, Copies]) -> SetFacts:
    lengths, counts = each.table.lengths, getattr(each.table, "counts", {})
    quantiles = np.quantile(lengths, list(QUANTILES.values()), method="nearest").tolist()
    return SetFacts(
        samples=len(lengths),
        tokens=int(lengths.sum()),
        lengths=dict(zip(QUANTILES, map(int, quantiles), strict=True)),
        truncated=counts.get("truncated", 0),
        dropped=counts.get("dropped", 0),
        classes=each.recipe.class_counts(each.table),
        copies=None if own is None else own.copies(),
        trained=trained,
    )
