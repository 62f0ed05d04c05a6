"""Unread columns: lists the columns of training rows that a run does not read."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from trainer.data.stored_cells import chunk_of
from trainer.data.tokenized_rows import is_tokenized, read_columns
from trainer.errors import InputError, RowError
from trainer.tasks.plain_recipes import LABELS, SPANS, PlainRecipe
from trainer.tasks.recipe import Recipe
from trainer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from datasets import Dataset

ROWS_TRIED = 32
"""The number of rows that are tokenized to find the columns that a recipe reads."""
TRIED_OF_A_STREAM = 256
"""The number of first rows of a stream that are tokenized to find these columns."""


def unread_note(
    rows: object, recipe: Recipe, processor: object, input_names: Sequence[str], where: str
) -> str:
    """A line listing the columns that are not read; empty if all are read.

    For a plain module, it lists the columns that are not passed to `forward`, whose parameters are
    `input_names` (empty if it accepts any column). The loss may still read them.
    """
    if isinstance(recipe, PlainRecipe):
        others = _not_passed(rows, input_names)
        return f"{where}: {', '.join(others)}: not passed to the model" if others else ""
    unread = unread_columns(rows, recipe, processor)
    return f"{where}: not read: {', '.join(unread)}" if unread else ""


def unread_columns(rows: Any, recipe: Recipe, processor: object) -> list[str]:
    """The columns of a table that a recipe neither reads nor names in its options."""
    names = getattr(rows, "column_names", None)
    if not names or len(rows) == 0:
        return []
    if is_tokenized(names, recipe):
        read = set(read_columns(names, recipe))
    elif not isinstance(processor, Tokenizer) or type(recipe).samples is not Recipe.samples:
        return []  # only the recipe knows which columns other inputs use
    else:
        read = _read_by_features(rows, recipe, processor)
    read |= {*recipe.text_columns, *recipe.answer_columns, *_named(recipe)}
    return [name for name in names if name not in read]


def unneeded_columns(rows: "Dataset", recipe: Recipe, processor: object) -> set[str]:
    """The columns of a stream's first `rows` that the stream does not need to read.

    `features` neither accesses nor looks for them, and the recipe does not name them. Columns that
    only later rows have are never included.
    """
    names = set(rows.column_names)
    if isinstance(recipe, PlainRecipe):
        return set()
    if is_tokenized(names, recipe):
        found = set(read_columns(names, recipe))
    elif not isinstance(processor, Tokenizer) or type(recipe).samples is not Recipe.samples:
        return set()
    else:
        watched = RecordedColumns(chunk_of(rows, 0, TRIED_OF_A_STREAM))
        try:
            recipe.prepare(processor)
            recipe.features(watched, processor)
        except (RowError, InputError):
            return set()
        if watched.listed:
            return set()
        found = watched.read | watched.sought
    found |= {*recipe.text_columns, *recipe.answer_columns, *_named(recipe)}
    return names - found


class RecordedColumns(Mapping[str, Sequence[Any]]):
    """A mapping of columns that records in `read` which of them are accessed."""

    def __init__(self, columns: Mapping[str, Sequence[Any]]) -> None:
        self._columns = columns
        self.read: set[str] = set()
        self.sought: set[str] = set()
        """The names whose presence was tested."""
        self.listed = False
        """Whether all names were listed, so that any column may matter."""

    def __getitem__(self, name: str) -> Sequence[Any]:
        found = self._columns[name]
        self.read.add(name)
        return found

    def __contains__(self, name: object) -> bool:
        self.sought.add(str(name))
        return name in self._columns

    def __iter__(self) -> Iterator[str]:
        self.listed = True
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


def _read_by_features(rows: "Dataset", recipe: Recipe, tokenizer: Tokenizer) -> set[str]:
    """The columns that `features` accesses; all columns if it rejects a row."""
    recorded = RecordedColumns(chunk_of(rows, 0, ROWS_TRIED))
    try:
        recipe.prepare(tokenizer)
        recipe.features(recorded, tokenizer)
    except (RowError, InputError):
        return set(rows.column_names)
    return recorded.read


def _named(recipe: Recipe) -> set[str]:
    """The strings among the options of a recipe, which may be names of columns."""
    if not is_dataclass(recipe):
        return set()
    values: list[Any] = [getattr(recipe, each.name) for each in fields(recipe)]
    several = [entry for value in values if isinstance(value, (list, tuple)) for entry in value]
    return {value for value in [*values, *several] if isinstance(value, str)}


def _not_passed(rows: object, input_names: Sequence[str]) -> list[str]:
    names = getattr(rows, "column_names", None)
    if names is None and isinstance(rows, (list, tuple)) and rows and isinstance(rows[0], Mapping):
        names = list(rows[0])
    taken = {*input_names, *LABELS, *SPANS}
    return [str(name) for name in names or () if input_names and name not in taken]
