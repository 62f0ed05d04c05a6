"""Tokenized rows: rows that already hold token ids, accepted by recipes in place of text."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from trainer.errors import RowError
from trainer.tasks.recipe import Recipe

IDS = "input_ids"
ONE_PER_TOKEN = ("token_type_ids",)
OTHER_NAMES = {"labels": ("labels", "label", "label_ids")}
"""A recipe's field -> the columns that may hold it, named as in transformers' collators."""
LARGEST = 2**31 - 1
"""The largest token id that a table stores."""
READ = (IDS, "attention_mask", *ONE_PER_TOKEN)
"""The columns of tokenized rows that are read in addition to the recipe's fields."""


def is_tokenized(columns: Collection[str], recipe: Recipe) -> bool:
    """Whether rows with these columns hold token ids, which the recipe takes in place of text."""
    return recipe.takes_tokens and IDS in columns


def read_columns(columns: Collection[str], recipe: Recipe) -> list[str]:
    """The columns of tokenized rows that are read."""
    fields = [_source(columns, name) for name in recipe.fields]
    return [name for name in columns if name in (*READ, *fields)]


def features_of_tokenized(
    rows: Mapping[str, Sequence[Any]], recipe: Recipe
) -> dict[str, list[Any]]:
    """The features of tokenized rows: the ids and the recipe's fields, taken from the rows.

    Tokens that `attention_mask` hides are left out. Raises RowError for ids that are not integers,
    and for columns with a wrong number of entries.
    """
    seen = [_visible(rows, row) for row in range(len(rows[IDS]))]
    columns = {IDS: _along_tokens(rows, IDS, seen)}
    for row, ids in enumerate(columns[IDS]):
        if not all(isinstance(each, int) and 0 <= each <= LARGEST for each in ids):
            accepted = f"accepted: whole numbers from 0 to {LARGEST:,}"
            raise RowError(row, f"'{IDS}' is {ids!r:.60}; {accepted}")
    for name in ONE_PER_TOKEN:
        if name in rows:
            columns[name] = _along_tokens(rows, name, seen)
    for name, axis in recipe.fields.items():
        if (source := _source(rows, name)) is not None:
            cells = _along_tokens(rows, source, seen) if axis == "token" else list(rows[source])
            columns[name] = cells
    return columns


def _source(columns: Collection[str], field: str) -> str | None:
    """The column that holds a field of the recipe."""
    return next((name for name in OTHER_NAMES.get(field, (field,)) if name in columns), None)


def _visible(rows: Mapping[str, Sequence[Any]], row: int) -> list[int]:
    """The positions of a row's tokens that are not pads."""
    if not isinstance(rows[IDS][row], Sequence):
        raise RowError(row, f"'{IDS}' is {rows[IDS][row]!r:.60}; accepted: a list of numbers")
    length = len(rows[IDS][row])
    if "attention_mask" not in rows or rows["attention_mask"][row] is None:
        return list(range(length))
    mask = rows["attention_mask"][row]
    if not isinstance(mask, Sequence):
        raise RowError(row, f"'attention_mask' is {mask!r:.60}; accepted: a list of 0 and 1")
    if len(mask) != length:
        raise RowError(row, f"'attention_mask' has {len(mask)} entries, '{IDS}' {length}")
    return [place for place, seen in enumerate(mask) if seen]


def _along_tokens(
    rows: Mapping[str, Sequence[Any]], name: str, seen: Sequence[Sequence[int]]
) -> list[list[Any]]:
    found = []
    for row, (cell, places) in enumerate(zip(rows[name], seen, strict=True)):
        wanted = len(rows[IDS][row])
        if not isinstance(cell, Sequence) or len(cell) != wanted:
            raise RowError(row, f"'{name}' is {cell!r:.60}; accepted: {wanted} entries, as '{IDS}'")
        found.append([cell[place] for place in places])
    return found
