"""Chunks: some rows of a table as the recipe sees them, and their features."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.errors import RowError
from trainer.recipe import Recipe

if TYPE_CHECKING:
    from datasets import Dataset

    from trainer.tokenizer import Tokenizer

Columns = Mapping[str, Sequence[Any]]
FEW = 32
"""Rows that are tried together in a chunk that has bad ones."""


def chunk_of(rows: "Dataset", start: int, size: int) -> dict[str, list[Any]]:
    """Rows from `start` on, by column, without what the table has filled in.

    A table's structs have the keys of all rows: in each cell those that are null are left out. A
    column of JSON (trainer/data/cells.py) has only what was in the file, nulls included.
    """
    chunk = rows.with_format(None)[start : start + size]
    for name, feature in rows.features.items():
        if _holds_structs(feature):
            chunk[name] = [_without_nulls(value) for value in chunk[name]]
    return chunk


def usable(
    chunk: Columns,
    numbers: np.ndarray,
    recipe: Recipe,
    tokenizer: "Tokenizer",
    reasons: dict[int, str] | None,
) -> list[tuple[dict[str, list[Any]], np.ndarray]]:
    """The features of a chunk's rows, in pieces, each with the numbers of its rows.

    Rows that the recipe refuses are left out, and `reasons` tells why by their numbers; where it is
    None, the RowError is raised.
    """
    if not len(numbers):
        return []
    try:
        features = recipe.features(chunk, tokenizer)
        if reasons is not None:
            _refuse_without_tokens(features)
        return [(features, numbers)]
    except RowError as error:
        if reasons is None:
            raise
        reasons[int(numbers[error.row])] = str(error)
        keep = np.delete(np.arange(len(numbers)), error.row)
    size = max(1, min(FEW, len(keep)))
    pieces = []
    for start in range(0, len(keep), size):
        chosen = keep[start : start + size]
        part = {name: [column[i] for i in chosen] for name, column in chunk.items()}
        pieces += usable(part, numbers[chosen], recipe, tokenizer, reasons)
    return pieces


def _refuse_without_tokens(features: Columns) -> None:
    for row, sample in enumerate(features["input_ids"]):
        nested = len(sample) > 0 and isinstance(sample[0], Sequence)
        if not len(sample) or (nested and not all(map(len, sample))):
            raise RowError(row, "found no tokens; every row needs at least one")


def _holds_structs(feature: Any) -> bool:
    """Whether a column's cells are structs, or lists of such, at any depth."""
    if isinstance(feature, Mapping):
        return True
    if isinstance(feature, (list, tuple)):
        return any(map(_holds_structs, feature))
    return _holds_structs(inner) if (inner := getattr(feature, "feature", None)) else False


def _without_nulls(found: Any) -> Any:
    if isinstance(found, Mapping):
        return {key: _without_nulls(value) for key, value in found.items() if value is not None}
    if isinstance(found, list | tuple):
        return [_without_nulls(each) for each in found]
    return found
