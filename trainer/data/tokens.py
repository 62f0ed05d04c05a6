"""Tokens: tokenizes rows once, caches them on disk, and collates them into flat batches."""

import hashlib
import importlib
import inspect
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from trainer.checkpoint import files
from trainer.data import blocks, cache
from trainer.data.batch import FlatBatch
from trainer.data.cache_checks import fault_of
from trainer.data.cache_locks import making
from trainer.data.parallel_tokens import arrays_made_in
from trainer.data.plan import epoch_order
from trainer.data.read_options import BadRow, BadRows
from trainer.data.row_locations import location_of
from trainer.data.token_arrays import Work, arrays_of, name_of, offsets_of, typed
from trainer.errors import InputError
from trainer.plurals import of_all
from trainer.tasks.recipe import Axis, Recipe

if TYPE_CHECKING:
    from datasets import Dataset

    from trainer.tokenizer import Tokenizer

log = logging.getLogger("trainer")

FORMAT = 3
"""The version of the cache's entries; changing it invalidates all of them."""
PACKAGES = ("trainer.data", "trainer.tasks", "trainer.tokenizer")
"""Packages whose whole source is part of the cache key, since it may affect ids and fields."""


def tokenize(
    rows: "Dataset",
    recipe: Recipe,
    tokenizer: "Tokenizer | None",
    *,
    cache_dir: Path | None,
    where: str,
    progress: bool,
    bad_rows: BadRows | None = None,
    processes: int = 1,
) -> "TokenTable":
    """The token table of the rows, from the cache if equal rows were tokenized before.

    `where` names the rows in messages ("dataset.train"). With `cache_dir=None` nothing is written.
    `bad_rows` is the policy for rows that the recipe rejects; with None, any such row is an error.
    Rows of token ids need no tokenizer, and are not cached. Rows that are not in the cache are
    tokenized by `processes` processes, each with bounded memory. Raises InputError for a row that
    the recipe rejects or that has no tokens.
    """
    if len(rows) == 0:
        raise InputError(f"{where}: found no rows; at least one is needed")
    if tokenizer is not None:
        recipe.prepare(tokenizer)
    bad_rows = bad_rows or BadRows()

    work = Work(rows, recipe, tokenizer, where, bad_rows.drops)
    if cache_dir is None or tokenizer is None or _source_files(recipe) is None:
        arrays = arrays_of(work, progress)
    else:
        folder = cache_dir / entry_name(rows, recipe, tokenizer, bad_rows)
        check = partial(
            fault_of,
            axes=recipe.fields,
            vocab_size=len(tokenizer),
            num_rows=len(rows),
            num_roles=len(recipe.roles),
        )
        arrays = cache.load(folder, check) or _cached(folder, check, work, progress, processes)
    table = TokenTable.of(arrays, recipe.fields, recipe.roles)
    table.dropped = _dropped(arrays, rows, where)
    if table.dropped:
        bad_rows.check(where, table.dropped, len(rows))
        if progress:
            log.warning("%s: %s dropped", where, of_all(len(table.dropped), len(rows), "row"))
    return table


def _cached(
    folder: Path, check: cache.Check, work: Work, progress: bool, processes: int
) -> dict[str, np.ndarray]:
    """Load the arrays of an entry; make and store them first if no process has done so."""
    with making(folder):
        if (found := cache.load(folder, check)) is not None:
            return found
        with arrays_made_in(files.staged_name(folder), processes, work, progress) as fresh:
            cache.store(folder, fresh, check)
            # The loaded arrays are memory-mapped, so all processes of a machine share one copy.
            return cache.load(folder, check) or fresh


def default_cache_dir() -> Path:
    """The folder of cached token tables: $TEMPERING_CACHE, or tempering/tokens in ~/.cache."""
    if chosen := os.environ.get("TEMPERING_CACHE"):
        return Path(os.path.expanduser(chosen))
    user_cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expanduser(user_cache)) / "tempering" / "tokens"


Augment = Callable[[FlatBatch, int, int | None], FlatBatch]
"""(batch, seed, epoch) -> the augmented batch; see `Recipe.augment`."""


@dataclass
class TokenTable:
    """A tokenized data set that implements `Samples`. N samples, S sequences, T tokens."""

    input_ids: np.ndarray
    """[T], int32"""
    token_type_ids: np.ndarray | None
    """[T], int8, for model families that use them"""
    sequence_offsets: np.ndarray
    """[S + 1]: sequence s has the tokens from offset s to offset s + 1"""
    sample_offsets: np.ndarray
    """[N + 1]: sample n has the sequences from offset n to offset n + 1"""
    fields: dict[str, np.ndarray]
    """Name -> field of the recipe, int64 or float32, with one entry per token, sequence or sample
    (see `axes`). Vectors have a second axis."""
    axes: Mapping[str, Axis]
    """The axis of each field: token, sequence or sample."""
    roles: np.ndarray | None = None
    """[S], int8: each sequence's role, as an index into `role_names`; None without roles"""
    role_names: tuple[str, ...] = ()
    """`Recipe.roles`"""
    rows: np.ndarray | None = None
    """[N], the row of each sample, or the row in which a block starts; None if sample n is row n"""
    sequence_rows: np.ndarray | None = None
    """[S], the row of each sequence, for samples that are blocks of several rows"""
    counts: dict[str, int] = field(default_factory=dict)
    """`truncated` -> the number of truncated rows; `dropped` -> the number of invalid rows."""
    dropped: list[BadRow] = field(default_factory=list)
    """The dropped rows, with the reasons."""
    derived: dict[str, np.ndarray] = field(default_factory=dict)
    """Columns computed with the starting weights (trainer/training/derived.py); not in
    `fingerprint`
    """
    augment: "Augment | None" = None
    """Changes every batch; the result depends only on the samples, the seed and the epoch."""
    lengths: np.ndarray = field(init=False)
    """[N], the number of tokens in all sequences of each sample"""
    pure: bool = True
    """Whether `collate` has no side effects, so that any thread may call it."""

    def __post_init__(self) -> None:
        self.lengths = np.diff(self.sequence_offsets[self.sample_offsets])

    @classmethod
    def of(
        cls,
        arrays: Mapping[str, np.ndarray],
        axes: Mapping[str, Axis],
        role_names: tuple[str, ...] = (),
    ) -> "TokenTable":
        """Make a table from a cache entry's arrays; those of fields are named `field.<name>`."""
        return cls(
            input_ids=arrays["input_ids"],
            token_type_ids=arrays.get("token_type_ids"),
            sequence_offsets=arrays["sequence_offsets"],
            sample_offsets=arrays["sample_offsets"],
            fields={
                name.removeprefix("field."): array
                for name, array in arrays.items()
                if name.startswith("field.")
            },
            axes=axes,
            roles=arrays.get("roles"),
            role_names=role_names,
            rows=arrays.get("rows"),
            sequence_rows=arrays.get("sequence_rows"),
            counts={
                name.removeprefix("count."): int(array)
                for name, array in arrays.items()
                if name.startswith("count.")
            },
        )

    def __len__(self) -> int:
        return len(self.sample_offsets) - 1

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the ids and fields, which must be the same when a run is resumed."""
        digest = hashlib.sha256()
        arrays = {"ids": self.input_ids, "types": self.token_type_ids, **self.fields}
        arrays["roles"] = self.roles
        offsets = {"sequences": self.sequence_offsets, "samples": self.sample_offsets}
        for name, array in (arrays | offsets).items():
            if array is not None:
                digest.update(f"{name} {array.dtype} {array.shape} ".encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    @property
    def num_tokens(self) -> int:
        """The number of tokens in all samples."""
        return len(self.input_ids)

    def num_entries(self, axis: Axis) -> int:
        """The number of tokens, sequences or samples."""
        offsets = {"sequence": self.sequence_offsets, "sample": self.sample_offsets}
        return self.num_tokens if axis == "token" else len(offsets[axis]) - 1

    def with_derived(
        self, columns: Mapping[str, np.ndarray], axes: Mapping[str, Axis]
    ) -> "TokenTable":
        """A table of the same samples, whose batches also have these columns as fields."""
        return replace(self, derived=dict(columns), axes={**self.axes, **axes})

    def collate(
        self, sample_ids: Sequence[int] | np.ndarray, seed: int = 0, epoch: int | None = None
    ) -> FlatBatch:
        """A flat batch of these samples, in this order; positions restart in each sequence.

        Without an epoch, the batch is for an evaluation.
        """
        samples = np.asarray(sample_ids, dtype=np.int64)
        return self.collate_as(samples, samples, seed, epoch)

    def collate_as(
        self, samples: np.ndarray, sample_ids: np.ndarray, seed: int, epoch: int | None
    ) -> FlatBatch:
        """A batch of `samples`, indices in this table; `sample_ids` are indices in the data set."""
        first = self.sample_offsets[samples]
        sequences, sequence_sample = blocks.ranges(first, self.sample_offsets[samples + 1] - first)
        first = self.sequence_offsets[sequences]
        lengths = self.sequence_offsets[sequences + 1] - first
        batch = self._gather(sample_ids, samples, sequences, sequence_sample, lengths)
        return batch if self.augment is None else self.augment(batch, seed, epoch)

    @classmethod
    def joined(cls, tables: "Sequence[TokenTable]") -> "TokenTable":
        """The samples of several tables of one recipe, one table after the other.

        Raises InputError if the tables have different fields, as in a stream in which only some
        rows have labels.
        """
        first = tables[0]
        for table in tables:
            for name in first.fields.keys() ^ table.fields.keys():
                accepted = "accepted: labels and other answers in all rows, or in none"
                raise InputError(f"dataset.train: '{name}' was made of some rows only; {accepted}")

        def both(name: str) -> Any:
            parts = [getattr(table, name) for table in tables]
            return None if parts[0] is None else np.concatenate(parts)

        def offsets(name: str) -> np.ndarray:
            return offsets_of(np.concatenate([np.diff(getattr(table, name)) for table in tables]))

        return replace(
            first,
            input_ids=both("input_ids"),
            token_type_ids=both("token_type_ids"),
            sequence_offsets=offsets("sequence_offsets"),
            sample_offsets=offsets("sample_offsets"),
            fields={
                name: typed(np.concatenate([table.fields[name] for table in tables]))
                for name in first.fields
            },
            roles=both("roles"),
            rows=None,
            sequence_rows=None,
        )

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The arrays from which `of` makes a table with the same samples."""
        names = ("input_ids", "token_type_ids", "sequence_offsets", "sample_offsets", "roles")
        found = {name: getattr(self, name) for name in names}
        fields = {f"field.{name}": array for name, array in self.fields.items()}
        return {name: array for name, array in {**found, **fields}.items() if array is not None}

    def placeholder(self) -> FlatBatch:
        """A batch of sample 0, with each of its sequences cut to one token."""
        sequences = np.arange(self.sample_offsets[1])
        ones = np.ones_like(sequences)
        none = np.zeros(1, np.int64)
        batch = self._gather(none, none, sequences, np.zeros_like(sequences), ones)
        return batch if self.augment is None else self.augment(batch, 0, None)

    def padding_avoided(self, batch_size: int) -> float:
        """The share of pad tokens in random batches of this size if they were padded."""
        order = epoch_order(len(self), seed=0, epoch=0)
        lengths = np.diff(self.sequence_offsets)
        longest = np.maximum.reduceat(lengths, self.sample_offsets[:-1])[order]
        starts = np.arange(0, len(self), batch_size)
        num_sequences = np.add.reduceat(np.diff(self.sample_offsets)[order], starts)
        positions = np.maximum.reduceat(longest, starts) * num_sequences
        return 1.0 - self.num_tokens / float(positions.sum())

    def _gather(
        self,
        sample_ids: np.ndarray,
        samples: np.ndarray,
        sequences: np.ndarray,
        sequence_sample: np.ndarray,
        sequence_lengths: np.ndarray,
    ) -> FlatBatch:
        """A batch of the first `sequence_lengths` tokens of each of `sequences`."""
        tokens, _ = blocks.ranges(self.sequence_offsets[sequences], sequence_lengths)
        position_ids, _ = blocks.ranges(np.zeros_like(sequences), sequence_lengths)
        entries = {"token": tokens, "sequence": sequences, "sample": samples}
        return FlatBatch(
            input_ids=_int64(self.input_ids[tokens]),
            position_ids=torch.from_numpy(position_ids),
            sequence_lengths=torch.from_numpy(sequence_lengths),
            sequence_sample=torch.from_numpy(sequence_sample),
            sample_ids=sample_ids,
            token_type_ids=(
                None if self.token_type_ids is None else _int64(self.token_type_ids[tokens])
            ),
            fields={
                name: torch.from_numpy(column[entries[self.axes[name]]])
                for name, column in (self.fields | self.derived).items()
            },
            roles=None if self.roles is None else _int64(self.roles[sequences]),
            role_names=self.role_names,
        )


def _int64(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.int64))


def _dropped(arrays: Mapping[str, np.ndarray], rows: "Dataset", where: str) -> list[BadRow]:
    """The dropped rows of a cache entry, with their locations and cells."""
    if "dropped" not in arrays:
        return []
    numbers = arrays["dropped"].tolist()
    reasons = json.loads(arrays["reasons"].tobytes())
    cells = rows.with_format(None).select(numbers)
    return [
        BadRow(location_of(rows, number, where), reason, row)
        for number, reason, row in zip(numbers, reasons, cells, strict=True)
    ]


def entry_name(
    rows: "Dataset", recipe: Recipe, tokenizer: "Tokenizer", bad_rows: BadRows | None = None
) -> str:
    """A digest of everything that affects token ids: rows, recipe, tokenizer, and their code."""
    import tokenizers

    parts = [FORMAT, tokenizers.__version__, recipe_identity(recipe)]
    parts += [tokenizer.fingerprint(), rows_digest(rows), bool(bad_rows and bad_rows.drops)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def recipe_identity(recipe: Recipe) -> list[Any] | None:
    """JSON values that differ between recipes with different code, classes or options.

    None if the code is not in a file, as for a class defined in an interactive session.
    """
    assert is_dataclass(recipe)
    if (files := _source_files(recipe)) is None:
        return None
    options = {option.name: repr(vars(recipe)[option.name]) for option in fields(recipe)}
    code = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    return [code, name_of(recipe), options]


def rows_digest(rows: "Dataset") -> str:
    """A digest of the content of the rows, independent of files, selections and processes.

    The fingerprint of `datasets` is unsuitable: it is random for tables made in memory.
    """
    import pyarrow as pa

    digest = hashlib.sha256()
    # Equal rows must serialize to equal bytes, however their file is chunked. So slices have a
    # fixed size, and concatenating an empty array copies each slice out of its larger buffers.
    for table in rows.with_format("arrow").iter(batch_size=10_000):
        columns = [pa.concat_arrays([*c.chunks, c.chunk(0)[:0]]) for c in table.columns]
        batch = pa.RecordBatch.from_arrays(columns, names=table.column_names)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        digest.update(sink.getvalue())
    return digest.hexdigest()


def _source_files(recipe: Recipe) -> list[Path] | None:
    """The source files that affect token ids; None for a class of an interactive session."""
    classes = [cls for cls in type(recipe).__mro__ if cls is not object]
    try:
        own = [inspect.getfile(cls) for cls in classes]
        own += [inspect.getfile(importlib.import_module(name)) for name in recipe.modules]
    except (TypeError, OSError):
        return None
    roots = [Path(str(importlib.import_module(name).__file__)).parent for name in PACKAGES]
    return [*(file for root in roots for file in sorted(root.rglob("*.py"))), *map(Path, own)]
