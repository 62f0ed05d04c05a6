"""MixtureSamples: presents the token tables of several sources as one data set."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from trainer.data.batch import FlatBatch
from trainer.data.mixed_rows import Blend
from trainer.data.mixture_plan import MixturePlan, epoch_counts
from trainer.data.plan import epoch_order
from trainer.data.read_options import BadRow
from trainer.data.source_batch import SourceBatch, joined
from trainer.data.tokens import TokenTable
from trainer.plurals import plural

if TYPE_CHECKING:
    from trainer.tasks.recipe import Axis, Recipe


@dataclass
class MixtureSamples:
    """N samples of K sources, one source after the other. Implements `Samples`.

    A batch holds samples of a single kind. Sources have the same kind if their losses are computed
    in the same way.
    """

    tables: dict[str, TokenTable]
    """Source -> its samples"""
    recipes: Mapping[str, "Recipe"]
    """Source -> the recipe of its samples"""
    table_kinds: Sequence[int]
    """[K], the kind of each source's samples"""
    blend: Blend
    """The proportions of the sources"""
    lengths: np.ndarray = field(init=False)
    """[N], the number of tokens in each sample"""
    kinds: np.ndarray | None = field(init=False)
    """[N], the kind of each sample; None if all samples have the same kind"""
    pure: ClassVar[bool] = True
    """`collate` has no side effects, so any thread may call it."""

    def __post_init__(self) -> None:
        self.lengths = np.concatenate([table.lengths for table in self.tables.values()])
        several = len(set(self.table_kinds)) > 1
        sizes = list(self.sizes.values())
        self.kinds = np.repeat(np.array(self.table_kinds), sizes) if several else None
        self._ends = np.cumsum(sizes)
        self._bare = [replace(table, augment=None) for table in self.tables.values()]
        self._dtypes = _field_types(self._bare, self.table_kinds)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the sources; `SourceBatch.sources` has indices into this tuple."""
        return tuple(self.tables)

    @property
    def sizes(self) -> dict[str, int]:
        """Source -> the number of its samples."""
        return {name: len(table) for name, table in self.tables.items()}

    @property
    def dropped(self) -> list[BadRow]:
        """The bad rows that were dropped from all sources."""
        return [row for table in self.tables.values() for row in table.dropped]

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the samples and the proportions, which must be the same on resume."""
        blend = [self.blend.temperature, self.blend.until]
        sources = [
            [name, table.fingerprint, self.blend.weights[name], self.blend.epochs[name]]
            for name, table in self.tables.items()
        ]
        return hashlib.sha256(json.dumps([blend, sources]).encode()).hexdigest()

    def planned(self, global_batch_size: int, seed: int, group_size: int) -> MixturePlan:
        """The plan for training on these samples."""
        counts = epoch_counts(self.sizes, self.blend, group_size)
        sizes = np.array(list(self.sizes.values()), dtype=np.int64)
        shape = self.lengths, sizes, counts
        return MixturePlan(*shape, global_batch_size, seed, group_size, self.kinds)

    def collate(
        self, sample_ids: Sequence[int] | np.ndarray, seed: int = 0, epoch: int | None = None
    ) -> FlatBatch:
        """A flat batch of these samples, in this order. All must be of the same kind.

        In training, pass the step as `epoch`: a mixture may repeat a sample within an epoch, and
        each repetition should get different random masks.
        """
        ids = np.asarray(sample_ids, dtype=np.int64)
        owners = np.searchsorted(self._ends, ids, side="right")
        places = {int(source): np.flatnonzero(owners == source) for source in np.unique(owners)}
        parts = {}
        for source, own in places.items():
            table = self._bare[source]
            numbers = ids[own] - (self._ends[source] - len(table))
            parts[source] = table.collate_as(numbers, ids[own], seed, epoch)
        first = int(owners[0])
        batch = self._joined(parts, places, ids, first)
        return self._augmented(batch, first, seed, epoch)

    def placeholder(self) -> FlatBatch:
        """A batch of sample 0, with each of its sequences cut to one token."""
        none = np.zeros(1, np.int64)
        batch = self._joined({0: self._bare[0].placeholder()}, {0: none}, none, 0)
        return self._augmented(batch, 0, 0, None)

    def padding_avoided(self, batch_size: int) -> float:
        """The share of pad tokens that padded random batches of this size would have."""
        order = epoch_order(len(self), seed=0, epoch=0)
        tables = list(self.tables.values())
        longest = np.concatenate(
            [
                np.maximum.reduceat(np.diff(t.sequence_offsets), t.sample_offsets[:-1])
                for t in tables
            ]
        )
        num_sequences = np.concatenate([np.diff(table.sample_offsets) for table in tables])
        starts = np.arange(0, len(self), batch_size)
        widths = np.maximum.reduceat(longest[order], starts)
        positions = widths * np.add.reduceat(num_sequences[order], starts)
        return 1.0 - int(self.lengths.sum()) / float(positions.sum())

    def num_entries(self, axis: "Axis") -> int:
        """The number of tokens, sequences or samples in all sources."""
        return sum(table.num_entries(axis) for table in self.tables.values())

    def with_derived(
        self, columns: Mapping[str, np.ndarray], axes: "Mapping[str, Axis]"
    ) -> "MixtureSamples":
        """The same samples with these columns added to the fields of their batches."""
        tables, starts = {}, {axis: 0 for axis in axes.values()}
        for name, table in self.tables.items():
            ends = {axis: start + table.num_entries(axis) for axis, start in starts.items()}
            own = {key: c[starts[axes[key]] : ends[axes[key]]] for key, c in columns.items()}
            tables[name] = table.with_derived(own, axes)
            starts = ends
        return replace(self, tables=tables)

    def notes(self, group_size: int) -> list[str]:
        """A line per source: its share of the samples, and the passes over it in an epoch."""
        counts = epoch_counts(self.sizes, self.blend, group_size)
        total = int(counts.sum())
        return [
            f"mixture: {count / total:.1%} {name}, {plural(count, 'sample')} per epoch "
            f"({count / size:.3g} passes over {size:,})"
            for (name, size), count in zip(self.sizes.items(), counts.tolist(), strict=True)
        ]

    def _joined(
        self,
        parts: Mapping[int, FlatBatch],
        places: Mapping[int, np.ndarray],
        ids: np.ndarray,
        first: int,
    ) -> SourceBatch:
        """One batch of all parts; a field has one type in all sources of the same kind."""
        batch = joined(parts, places, ids, self._bare[first].axes)
        for name, dtype in self._dtypes[first].items():
            batch.fields[name] = batch.fields[name].to(dtype)
        return batch

    def _augmented(
        self, batch: SourceBatch, source: int, seed: int, epoch: int | None
    ) -> FlatBatch:
        name = self.names[source]
        if self.kinds is not None:
            batch.recipe = self.recipes[name]
        augment = self.tables[name].augment
        return batch if augment is None else augment(batch, seed, epoch)


def _field_types(
    tables: Sequence[TokenTable], kinds: Sequence[int]
) -> list[dict[str, torch.dtype]]:
    """The types of each table's fields, which are equal for tables of the same kind.

    A field is float32 if any of these tables has floats in it, else int64.
    """
    floats = {
        (kind, name)
        for table, kind in zip(tables, kinds, strict=True)
        for name, column in table.fields.items()
        if column.dtype.kind == "f"
    }
    return [
        {name: torch.float32 if (kind, name) in floats else torch.int64 for name in table.fields}
        for table, kind in zip(tables, kinds, strict=True)
    ]
