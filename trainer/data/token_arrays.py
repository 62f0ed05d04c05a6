"""Token arrays: turns rows into features with a recipe, and features into flat arrays."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.data import blocks
from trainer.data.chunks import usable
from trainer.data.read_options import NoSamples
from trainer.data.row_locations import location_of
from trainer.data.stored_cells import chunk_of
from trainer.errors import InputError, RowError
from trainer.plurals import of_all
from trainer.tasks.recipe import Axis, Recipe
from trainer.terminal.counted import counted

if TYPE_CHECKING:
    from datasets import Dataset

    from trainer.tokenizer import Tokenizer

EXTRA_COLUMNS: Mapping[str, Axis] = {"token_type_ids": "token", "roles": "sequence"}
"""Column that `features` of any recipe may return besides `fields` -> the column's axis."""
ROWS_PER_CALL = 1000
"""The number of rows per call to a recipe; enough for the tokenizer to use every core."""


@dataclass(frozen=True)
class Work:
    """Rows to tokenize."""

    rows: "Dataset"
    recipe: Recipe
    tokenizer: "Tokenizer | None"
    where: str
    """The name of the rows in error messages."""
    drop: bool
    """Whether to leave out rows that the recipe rejects."""


@dataclass
class Part:
    """The features that a recipe made from some of the rows."""

    arrays: dict[str, np.ndarray]
    """Name -> the feature as a flat array; empty if all rows were dropped"""
    counts: Counter[str] = field(default_factory=Counter)
    """The name `truncated` -> the number of truncated rows"""
    reasons: dict[int, str] = field(default_factory=dict)
    """Index of a dropped row -> the reason"""


def arrays_of(work: Work, progress: bool) -> dict[str, np.ndarray]:
    """The arrays of a cache entry: the recipe's features of all rows, concatenated."""
    starts = range(0, len(work.rows), ROWS_PER_CALL)
    calls = counted(starts, f"tokenizing {work.where}") if progress else starts
    return finished(joined([part_of(work, start) for start in calls], work.recipe), work)


def part_of(work: Work, start: int) -> Part:
    """The features of ROWS_PER_CALL rows from `start` on, made in one call to the recipe."""
    rows, recipe, found = work.rows, work.recipe, Part({})
    chunk = chunk_of(rows, start, ROWS_PER_CALL)
    numbers = np.arange(start, min(start + ROWS_PER_CALL, len(rows)))
    try:
        reasons = found.reasons if work.drop else None
        pieces = usable(chunk, numbers, recipe, work.tokenizer, reasons)
    except RowError as error:
        place = location_of(rows, start + error.row, work.where)
        raise InputError(f"{place}: {error}") from error
    parts = [
        Part(_flattened(_counted(features, found.counts), recipe, len(kept)) | {"rows": kept})
        for features, kept in pieces
    ]
    return Part(joined(parts, recipe).arrays, found.counts, found.reasons)


def joined(parts: Sequence[Part], recipe: Recipe) -> Part:
    """Concatenate the parts. Raises InputError if they have different arrays."""
    counts: Counter[str] = Counter()
    reasons: dict[int, str] = {}
    for part in parts:
        counts.update(part.counts)
        reasons |= part.reasons
    full = [part.arrays for part in parts if part.arrays]
    check_names([list(arrays) for arrays in full], recipe)
    arrays = (
        {name: _joined(name, [a[name] for a in full], recipe) for name in full[0]} if full else {}
    )
    return Part(arrays, counts, reasons)


def check_names(names: Sequence[Sequence[str]], recipe: Recipe) -> None:
    """Raise InputError if the parts of a table have arrays with different names."""
    every = dict.fromkeys(name for part in names for name in part)
    for name in every:
        if any(name not in part for part in names):
            name = name.removeprefix("field.")
            raise InputError(f"{name_of(recipe)}: features made '{name}' of some rows only")


def finished(whole: Part, work: Work) -> dict[str, np.ndarray]:
    """Turn all features into the arrays of a cache entry. Raises InputError for empty rows."""
    arrays, reasons = dict(whole.arrays), whole.reasons
    rows, recipe, where = work.rows, work.recipe, work.where
    if not arrays:
        first = next(iter(reasons.values()))
        found = f"{where}: {of_all(len(rows), len(rows), 'row')} bad, the first one: {first}"
        raise NoSamples(found, reasons)
    _refuse_empty(arrays, rows, where)
    arrays["sequence_offsets"] = offsets_of(arrays.pop("sequence_lengths"))
    arrays["sample_offsets"] = offsets_of(arrays.pop("sequences_per_sample"))
    if recipe.blocks is not None:
        if len(arrays["input_ids"]) == len(arrays["rows"]):
            accepted = "accepted: longer texts"
            raise NoSamples(f"{where}: no text has more than one token; {accepted}", reasons)
        arrays = blocks.cut(arrays, recipe.blocks)
    elif not reasons:
        del arrays["rows"]
    return arrays | _counts_and_reasons(whole.counts, reasons)


def _counts_and_reasons(
    counts: Mapping[str, int], reasons: Mapping[int, str]
) -> dict[str, np.ndarray]:
    """The counts, and the dropped rows with their reasons, as arrays of a cache entry."""
    found = {f"count.{name}": np.array(number) for name, number in counts.items()}
    if not reasons:
        return found
    texts = json.dumps(list(reasons.values())).encode()
    return found | {
        "count.dropped": np.array(len(reasons)),
        "dropped": np.array(list(reasons), dtype=np.int64),
        "reasons": np.frombuffer(texts, dtype=np.uint8),
    }


def _counted(features: Mapping[str, Sequence[Any]], counts: Counter[str]) -> dict[str, Any]:
    """The features without `num_truncated_tokens`, from which the truncated rows are counted."""
    columns = dict(features)
    if "num_truncated_tokens" in columns:
        counts["truncated"] += int((np.array(columns.pop("num_truncated_tokens")) > 0).sum())
    return columns


def _flattened(
    features: Mapping[str, Sequence[Any]], recipe: Recipe, num_rows: int
) -> dict[str, np.ndarray]:
    """The features of a chunk as flat arrays, and the lengths of its sequences and samples."""
    ids = features["input_ids"]
    nested = any(len(sample) and isinstance(sample[0], Sequence) for sample in ids)
    depths = {"sample": 0, "sequence": int(nested), "token": 1 + nested}
    lengths, tokens = _unnested(ids, depths["token"])
    if len(ids) != num_rows:
        raise InputError(f"{name_of(recipe)}: features made {len(ids)} samples of {num_rows} rows")
    arrays = {
        "input_ids": np.array(tokens, dtype=np.int32),
        "sequence_lengths": lengths[-1],
        "sequences_per_sample": lengths[1] if nested else np.ones(num_rows, dtype=np.int64),
    }
    for name, column in features.items():
        if name in ("input_ids", "attention_mask"):
            continue
        axis = EXTRA_COLUMNS.get(name) or recipe.fields.get(name)
        if axis is None:
            accepted = ", ".join(["input_ids", *EXTRA_COLUMNS, *recipe.fields])
            raise InputError(f"{name_of(recipe)}: features made '{name}'; accepted: {accepted}")
        found, entries = _unnested(column, depths[axis])
        if not all(map(np.array_equal, found, lengths)):
            raise InputError(f"{name_of(recipe)}: '{name}' must have one entry for each {axis}")
        if name == "token_type_ids":
            arrays[name] = np.array(entries, dtype=np.int8)
        elif name == "roles":
            arrays[name] = _roles(entries, recipe)
        else:
            arrays[f"field.{name}"] = _numbers(name, entries, recipe)
    return arrays


def _roles(entries: Sequence[Any], recipe: Recipe) -> np.ndarray:
    """[S], int8. Raises InputError for values that are not indices into the recipe's roles."""
    numbers = range(len(recipe.roles))
    wrong = [entry for entry in entries if entry not in numbers]
    if wrong or recipe.blocks is not None:
        found = f"found {wrong[0]!r}" if wrong else "found some in a recipe that cuts blocks"
        accepted = ", ".join(f"{n} ({role})" for n, role in enumerate(recipe.roles)) or "none"
        raise InputError(f"{name_of(recipe)}: 'roles': {found}; accepted: {accepted}")
    return np.array(entries, dtype=np.int8)


def _unnested(column: Sequence[Any], depth: int) -> tuple[list[np.ndarray], Sequence[Any]]:
    """The lengths of the lists at each level, and the entries after flattening `depth` levels."""
    lengths = [np.array([len(column)])]
    for _ in range(depth):
        lengths.append(np.fromiter(map(len, column), np.int64, len(column)))
        column = list(chain.from_iterable(column))
    return lengths, column


def _numbers(name: str, entries: Sequence[Any], recipe: Recipe) -> np.ndarray:
    """The entries as an array [N] or [N, width]. Raises InputError if they are not numbers."""
    try:
        array = np.array(entries)
    except ValueError:  # vectors of different widths
        array = np.array(None)
    if array.dtype.kind not in "biuf" or array.ndim > 2:
        raise InputError(
            f"{name_of(recipe)}: '{name}' does not hold numbers, or vectors of one width"
        )
    return array


def _joined(name: str, chunks: list[np.ndarray], recipe: Recipe) -> np.ndarray:
    """The concatenated chunks of a column. Fields become int64, or float32 if any is float."""
    try:
        whole = np.concatenate(chunks)
    except ValueError as error:
        raise InputError(f"{name_of(recipe)}: '{name}': {error}") from error
    if not name.startswith("field."):
        return whole
    return typed(whole)


def typed(field: np.ndarray) -> np.ndarray:
    """The field in fp32 if it holds floats, else in int64."""
    return field.astype(np.float32 if field.dtype.kind == "f" else np.int64)


def typed_as(name: str, dtypes: Sequence[np.dtype]) -> np.dtype:
    """The type of a column whose parts have these types."""
    if name.startswith("field."):
        return np.dtype(np.float32 if any(each.kind == "f" for each in dtypes) else np.int64)
    return np.result_type(*dtypes)


def _refuse_empty(arrays: Mapping[str, np.ndarray], rows: "Dataset", where: str) -> None:
    lengths, sequences_per_sample = arrays["sequence_lengths"], arrays["sequences_per_sample"]
    owners = np.repeat(np.arange(len(sequences_per_sample)), sequences_per_sample)
    empty = np.union1d(owners[lengths == 0], np.flatnonzero(sequences_per_sample == 0))
    if len(empty):
        raise InputError(
            f"{location_of(rows, int(arrays['rows'][empty[0]]), where)}: found no tokens (in "
            f"{len(empty)} of {len(sequences_per_sample)} rows); every row needs at least one"
        )


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    """[N + 1], the start of each of N consecutive parts with these lengths, then the total."""
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)])


def name_of(recipe: Recipe) -> str:
    """The recipe's class, with its module, for messages and digests."""
    return f"{type(recipe).__module__}.{type(recipe).__qualname__}"
