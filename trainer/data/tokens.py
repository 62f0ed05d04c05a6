"""Tokens: rows made into ids once, kept in a cache, and gathered into flat batches."""

import hashlib
import inspect
import json
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from trainer import tokenizer as tokenizer_module
from trainer.data import blocks, cache, chunks, labels
from trainer.data.batch import FlatBatch
from trainer.data.cache_checks import fault_of
from trainer.data.chunks import chunk_of, usable
from trainer.data.places import place_of
from trainer.data.plan import epoch_order
from trainer.data.reading import BadRow, BadRows
from trainer.errors import InputError, RowError
from trainer.recipe import Axis, Recipe

if TYPE_CHECKING:
    from datasets import Dataset

    from trainer.tokenizer import Tokenizer

log = logging.getLogger("trainer")

FORMAT = 3
"""The version of what a cache entry holds; a new one makes all entries anew."""
ROWS_PER_CALL = 1000
"""Rows that a recipe sees at a time: enough for the tokenizer to use every core."""
MODULES = (blocks.__file__, chunks.__file__, labels.__file__)
"""Other modules that have a say in what ids and fields a row gets."""
INSTANT = 0.5
"""Seconds of work that show no progress bar."""


def tokenize(
    rows: "Dataset",
    recipe: Recipe,
    tokenizer: "Tokenizer",
    *,
    cache_dir: Path | None,
    where: str,
    progress: bool,
    bad_rows: BadRows | None = None,
) -> "TokenTable":
    """All rows as ids, from the cache where equal rows were made into ids before.

    `bad_rows` says what is done with rows that the recipe refuses; None: the first one is an error.

    `where` names the rows in messages ("dataset.train"). `cache_dir=None` keeps all in memory.
    Raises InputError for a row that the recipe refuses or that has no tokens.
    """
    if len(rows) == 0:
        raise InputError(f"{where}: found no rows; at least one is needed")
    recipe.prepare(tokenizer)
    bad_rows = bad_rows or BadRows()

    def made() -> dict[str, np.ndarray]:
        return _arrays(rows, recipe, tokenizer, where, progress, bad_rows.drops)

    if cache_dir is None or _source_files(recipe) is None:
        arrays = made()
    else:
        folder = cache_dir / entry_name(rows, recipe, tokenizer, bad_rows)
        check = partial(fault_of, axes=recipe.fields, vocab_size=len(tokenizer), num_rows=len(rows))
        if (found := cache.load(folder, check)) is None:
            fresh = made()
            cache.store(folder, fresh, check)
            # Memory-mapped, all processes of a machine share one copy.
            found = cache.load(folder, check) or fresh
        arrays = found
    table = TokenTable.of(arrays, recipe.fields)
    table.dropped = _dropped(arrays, rows, where)
    if table.dropped:
        bad_rows.check(where, table.dropped, len(rows))
        if progress:
            log.warning("%s: %d of %d rows are dropped", where, len(table.dropped), len(rows))
    return table


def default_cache_dir() -> Path:
    """Where token tables are kept: $TEMPERING_CACHE, else tempering/tokens in the user's cache."""
    if chosen := os.environ.get("TEMPERING_CACHE"):
        return Path(chosen).expanduser()
    user_cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(user_cache).expanduser() / "tempering" / "tokens"


@dataclass
class TokenTable:
    """A tokenized data set: any samples as one flat batch. N samples, S sequences, T tokens."""

    input_ids: np.ndarray
    """[T], int32"""
    token_type_ids: np.ndarray | None
    """[T], int8, where the family has them"""
    sequence_offsets: np.ndarray
    """[S + 1]: sequence s has the tokens from entry s to entry s + 1"""
    sample_offsets: np.ndarray
    """[N + 1]: sample n has the sequences from entry n to entry n + 1"""
    fields: dict[str, np.ndarray]
    """The recipe's fields, int64 or float32, each along its axis; vectors have a second one."""
    axes: Mapping[str, Axis]
    """What one entry of each field belongs to."""
    rows: np.ndarray | None = None
    """[N], the row that each sample comes from (a block: begins in); None: as many as samples"""
    counts: dict[str, int] = field(default_factory=dict)
    """Rows that were `truncated`, or `dropped` as bad."""
    dropped: list[BadRow] = field(default_factory=list)
    """The rows that make no sample, with the reason."""
    lengths: np.ndarray = field(init=False)
    """[N], the tokens of each sample over all its sequences"""
    pure: ClassVar[bool] = True
    """`collate` only reads, so that any thread may call it"""

    def __post_init__(self) -> None:
        self.lengths = np.diff(self.sequence_offsets[self.sample_offsets])

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], axes: Mapping[str, Axis]) -> "TokenTable":
        """The table of what a cache entry holds: fields have the prefix `field.`."""
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
            rows=arrays.get("rows"),
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
        """Equal for equal ids and fields, whoever made them: what a resumed run must repeat."""
        digest = hashlib.sha256()
        arrays = {"ids": self.input_ids, "types": self.token_type_ids, **self.fields}
        offsets = {"sequences": self.sequence_offsets, "samples": self.sample_offsets}
        for name, array in (arrays | offsets).items():
            if array is not None:
                digest.update(f"{name} {array.dtype} {array.shape} ".encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    @property
    def num_tokens(self) -> int:
        """Tokens of all samples."""
        return len(self.input_ids)

    def collate(self, sample_ids: Sequence[int] | np.ndarray) -> FlatBatch:
        """These samples, in this order, laid end to end; positions restart in every sequence."""
        samples = np.asarray(sample_ids, dtype=np.int64)
        first = self.sample_offsets[samples]
        sequences, sequence_sample = blocks.ranges(first, self.sample_offsets[samples + 1] - first)
        first = self.sequence_offsets[sequences]
        return self._gather(
            samples,
            sequences,
            sequence_sample,
            sequence_lengths=self.sequence_offsets[sequences + 1] - first,
        )

    def placeholder(self) -> FlatBatch:
        """One token: sample 0, each of its sequences cut to the first token."""
        sequences = np.arange(self.sample_offsets[1])
        ones = np.ones_like(sequences)
        return self._gather(np.zeros(1, np.int64), sequences, np.zeros_like(sequences), ones)

    def padding_avoided(self, batch_size: int) -> float:
        """The share of pad tokens if batches of this many samples, in random order, were padded."""
        order = epoch_order(len(self), seed=0, epoch=0)
        lengths = np.diff(self.sequence_offsets)
        longest = np.maximum.reduceat(lengths, self.sample_offsets[:-1])[order]
        starts = np.arange(0, len(self), batch_size)
        num_sequences = np.add.reduceat(np.diff(self.sample_offsets)[order], starts)
        positions = np.maximum.reduceat(longest, starts) * num_sequences
        return 1.0 - self.num_tokens / float(positions.sum())

    def _gather(
        self,
        samples: np.ndarray,
        sequences: np.ndarray,
        sequence_sample: np.ndarray,
        sequence_lengths: np.ndarray,
    ) -> FlatBatch:
        """The first `sequence_lengths` tokens of `sequences`, with the fields of all three axes."""
        tokens, _ = blocks.ranges(self.sequence_offsets[sequences], sequence_lengths)
        position_ids, _ = blocks.ranges(np.zeros_like(sequences), sequence_lengths)
        entries = {"token": tokens, "sequence": sequences, "sample": samples}
        return FlatBatch(
            input_ids=_int64(self.input_ids[tokens]),
            position_ids=torch.from_numpy(position_ids),
            sequence_lengths=torch.from_numpy(sequence_lengths),
            sequence_sample=torch.from_numpy(sequence_sample),
            sample_ids=samples,
            token_type_ids=(
                None if self.token_type_ids is None else _int64(self.token_type_ids[tokens])
            ),
            fields={
                name: torch.from_numpy(column[entries[self.axes[name]]])
                for name, column in self.fields.items()
            },
        )


def _int64(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.int64))


def _arrays(
    rows: "Dataset", recipe: Recipe, tokenizer: "Tokenizer", where: str, progress: bool, drop: bool
) -> dict[str, np.ndarray]:
    """What a cache entry holds: the recipe's features of all rows, end to end."""
    parts: dict[str, list[np.ndarray]] = {}
    counts: Counter[str] = Counter()
    reasons: dict[int, str] = {}
    for start in _starts(len(rows), where, progress):
        chunk = chunk_of(rows, start, ROWS_PER_CALL)
        numbers = np.arange(start, min(start + ROWS_PER_CALL, len(rows)))
        try:
            pieces = usable(chunk, numbers, recipe, tokenizer, reasons if drop else None)
        except RowError as error:
            place = place_of(rows, start + error.row, where)
            raise InputError(f"{place}: {error}") from error
        for features, kept in pieces:
            columns = _counted(features, counts)
            for name, part in _flattened(columns, recipe, len(kept)).items():
                parts.setdefault(name, []).append(part)
            parts.setdefault("rows", []).append(kept)
    if not parts:
        first = next(iter(reasons.values()))
        raise InputError(f"{where}: all {len(rows)} rows are bad, the first one: {first}")
    for name, made in parts.items():
        if len(made) != len(parts["input_ids"]):
            name = name.removeprefix("field.")
            raise InputError(f"{_name(recipe)}: features made '{name}' of some rows only")
    arrays = {name: _joined(name, made, recipe) for name, made in parts.items()}
    _refuse_empty(arrays, rows, where)
    arrays["sequence_offsets"] = _offsets(arrays.pop("sequence_lengths"))
    arrays["sample_offsets"] = _offsets(arrays.pop("sequences_per_sample"))
    if recipe.blocks is not None:
        if len(arrays["input_ids"]) == len(arrays["rows"]):
            raise InputError(f"{where}: no text has a token after its first; accepted: longer ones")
        arrays = blocks.cut(arrays, recipe.blocks)
    elif not reasons:
        del arrays["rows"]
    return arrays | _told(counts, reasons)


def _told(counts: Mapping[str, int], reasons: Mapping[int, str]) -> dict[str, np.ndarray]:
    """Counts, and the dropped rows with their reasons, as arrays of a cache entry."""
    found = {f"count.{name}": np.array(number) for name, number in counts.items()}
    if not reasons:
        return found
    texts = json.dumps(list(reasons.values())).encode()
    return found | {
        "count.dropped": np.array(len(reasons)),
        "dropped": np.array(list(reasons), dtype=np.int64),
        "reasons": np.frombuffer(texts, dtype=np.uint8),
    }


def _dropped(arrays: Mapping[str, np.ndarray], rows: "Dataset", where: str) -> list[BadRow]:
    """The dropped rows of a cache entry, with their places and cells."""
    if "dropped" not in arrays:
        return []
    numbers = arrays["dropped"].tolist()
    reasons = json.loads(arrays["reasons"].tobytes())
    cells = rows.with_format(None).select(numbers)
    return [
        BadRow(place_of(rows, number, where), reason, row)
        for number, reason, row in zip(numbers, reasons, cells, strict=True)
    ]


def _counted(features: Mapping[str, Sequence[Any]], counts: Counter[str]) -> dict[str, Any]:
    """The features less what is only told to the user, which is counted."""
    columns = dict(features)
    if "num_truncated_tokens" in columns:
        counts["truncated"] += int((np.array(columns.pop("num_truncated_tokens")) > 0).sum())
    return columns


def _starts(num_rows: int, where: str, progress: bool) -> Iterator[int]:
    """The first row of each call; a bar on the terminal shows how far the calls have come."""
    starts = range(0, num_rows, ROWS_PER_CALL)
    if not (progress and sys.stdout.isatty()):
        yield from starts
        return
    from rich.progress import Progress

    bar = Progress(transient=True)
    task = bar.add_task(f"tokenizing {where}", total=num_rows)
    began = time.monotonic()
    try:
        for start in starts:
            bar.update(task, completed=start)
            if time.monotonic() - began > INSTANT and not bar.live.is_started:
                bar.start()
            yield start
    finally:
        bar.stop()


def _flattened(
    features: Mapping[str, Sequence[Any]], recipe: Recipe, num_rows: int
) -> dict[str, np.ndarray]:
    """A chunk's features, each column one array, with the lengths that tell the entries apart."""
    ids = features["input_ids"]
    nested = any(len(sample) and isinstance(sample[0], Sequence) for sample in ids)
    depths = {"sample": 0, "sequence": int(nested), "token": 1 + nested}
    lengths, tokens = _unnested(ids, depths["token"])
    if len(ids) != num_rows:
        raise InputError(f"{_name(recipe)}: features made {len(ids)} samples of {num_rows} rows")
    arrays = {
        "input_ids": np.array(tokens, dtype=np.int32),
        "sequence_lengths": lengths[-1],
        "sequences_per_sample": lengths[1] if nested else np.ones(num_rows, dtype=np.int64),
    }
    for name, column in features.items():
        if name in ("input_ids", "attention_mask"):
            continue
        axis = "token" if name == "token_type_ids" else recipe.fields.get(name)
        if axis is None:
            accepted = ", ".join(["input_ids", "token_type_ids", *recipe.fields])
            raise InputError(f"{_name(recipe)}: features made '{name}'; accepted: {accepted}")
        found, entries = _unnested(column, depths[axis])
        if not all(map(np.array_equal, found, lengths)):
            raise InputError(f"{_name(recipe)}: '{name}' has not one entry for each {axis}")
        if name == "token_type_ids":
            arrays[name] = np.array(entries, dtype=np.int8)
        else:
            arrays[f"field.{name}"] = _numbers(name, entries, recipe)
    return arrays


def _unnested(column: Sequence[Any], depth: int) -> tuple[list[np.ndarray], Sequence[Any]]:
    """The entries `depth` lists down, and the number of entries of every list on the way."""
    lengths = [np.array([len(column)])]
    for _ in range(depth):
        lengths.append(np.fromiter(map(len, column), np.int64, len(column)))
        column = list(chain.from_iterable(column))
    return lengths, column


def _numbers(name: str, entries: Sequence[Any], recipe: Recipe) -> np.ndarray:
    """[entries] or [entries, width]."""
    try:
        array = np.array(entries)
    except ValueError:  # vectors of different widths
        array = np.array(None)
    if array.dtype.kind not in "biuf" or array.ndim > 2:
        raise InputError(
            f"{_name(recipe)}: '{name}' is not made of numbers, or of vectors of one width"
        )
    return array


def _joined(name: str, chunks: list[np.ndarray], recipe: Recipe) -> np.ndarray:
    """All chunks of a column; numbers become int64, or float32 where a chunk has fractions."""
    try:
        whole = np.concatenate(chunks)
    except ValueError as error:
        raise InputError(f"{_name(recipe)}: '{name}': {error}") from error
    if not name.startswith("field."):
        return whole
    return whole.astype(np.float32 if whole.dtype.kind == "f" else np.int64)


def _refuse_empty(arrays: Mapping[str, np.ndarray], rows: "Dataset", where: str) -> None:
    lengths, sequences_per_sample = arrays["sequence_lengths"], arrays["sequences_per_sample"]
    owners = np.repeat(np.arange(len(sequences_per_sample)), sequences_per_sample)
    empty = np.union1d(owners[lengths == 0], np.flatnonzero(sequences_per_sample == 0))
    if len(empty):
        raise InputError(
            f"{place_of(rows, int(arrays['rows'][empty[0]]), where)}: found no tokens (so "
            f"{len(empty)} of {len(sequences_per_sample)} rows); every row needs at least one"
        )


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)])


def entry_name(
    rows: "Dataset", recipe: Recipe, tokenizer: "Tokenizer", bad_rows: BadRows | None = None
) -> str:
    """A digest of all that decides the ids: rows, recipe, tokenizer, and the code between them."""
    import tokenizers

    assert is_dataclass(recipe)
    options = {option.name: repr(getattr(recipe, option.name)) for option in fields(recipe)}
    code = [hashlib.sha256(file.read_bytes()).hexdigest() for file in _source_files(recipe) or []]
    decisive = [FORMAT, tokenizers.__version__, code, _name(recipe), options]
    decisive += [tokenizer.fingerprint(), rows_digest(rows), bool(bad_rows and bad_rows.drops)]
    return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()


def rows_digest(rows: "Dataset") -> str:
    """A digest of the rows' content, whatever file, selection or process they came from.

    `datasets` has a fingerprint of its own, but it is random for tables made in memory.
    """
    import pyarrow as pa

    digest = hashlib.sha256()
    # Slices of one size, and copies (an empty array more makes one): so equal rows are serialized
    # alike, however a file has cut them and whatever lies beside them in memory.
    for table in rows.with_format("arrow").iter(batch_size=10_000):
        columns = [pa.concat_arrays([*c.chunks, c.chunk(0)[:0]]) for c in table.columns]
        batch = pa.RecordBatch.from_arrays(columns, names=table.column_names)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        digest.update(sink.getvalue())
    return digest.hexdigest()


def _source_files(recipe: Recipe) -> list[Path] | None:
    """The files with the code that makes ids; None where a class was typed into a prompt."""
    classes = [cls for cls in type(recipe).__mro__ if cls is not object]
    try:
        found = [inspect.getfile(cls) for cls in classes]
    except (TypeError, OSError):
        return None
    package = sorted(Path(str(tokenizer_module.__file__)).parent.glob("*.py"))
    return [*map(Path, (__file__, *MODULES)), *package, *map(Path, found)]


def _name(recipe: Recipe) -> str:
    return f"{type(recipe).__module__}.{type(recipe).__qualname__}"
