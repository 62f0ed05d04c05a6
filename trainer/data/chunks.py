"""Chunks: computes the features of consecutive rows in one call and leaves out invalid rows."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from trainer.data.tokenized_rows import features_of_tokenized, is_tokenized
from trainer.errors import RowError
from trainer.tasks.recipe import Recipe

if TYPE_CHECKING:
    from trainer.tokenizer import Tokenizer

Columns = Mapping[str, Sequence[Any]]
ROWS_PER_RETRY = 32
"""The number of rows processed at a time after an invalid row was found in a chunk."""


def usable(
    chunk: Columns,
    numbers: np.ndarray,
    recipe: Recipe,
    tokenizer: "Tokenizer | None",
    reasons: dict[int, str] | None,
) -> list[tuple[dict[str, list[Any]], np.ndarray]]:
    """The features of the valid rows of a chunk: a list of (features, indices of the rows).

    Rows that the recipe rejects are skipped, and `reasons[index of the row]` is set to the reason.
    If `reasons` is None, the RowError is raised.
    """
    if not len(numbers):
        return []
    try:
        features = _features(chunk, recipe, tokenizer)
        if reasons is not None:
            _refuse_without_tokens(features)
        return [(features, numbers)]
    except RowError as error:
        if reasons is None:
            raise
        reasons[int(numbers[error.row])] = str(error)
        keep = np.delete(np.arange(len(numbers)), error.row)
    size = max(1, min(ROWS_PER_RETRY, len(keep)))
    pieces = []
    for start in range(0, len(keep), size):
        chosen = keep[start : start + size]
        part = {name: [column[i] for i in chosen] for name, column in chunk.items()}
        pieces += usable(part, numbers[chosen], recipe, tokenizer, reasons)
    return pieces


def _features(
    chunk: Columns, recipe: Recipe, tokenizer: "Tokenizer | None"
) -> dict[str, list[Any]]:
    if is_tokenized(chunk, recipe):
        return features_of_tokenized(chunk, recipe)
    return recipe.features(chunk, cast("Tokenizer", tokenizer))  # texts need a tokenizer


def _refuse_without_tokens(features: Columns) -> None:
    for row, sample in enumerate(features["input_ids"]):
        nested = len(sample) > 0 and isinstance(sample[0], Sequence)
        if not len(sample) or (nested and not all(map(len, sample))):
            raise RowError(row, "found no tokens; every row needs at least one")
