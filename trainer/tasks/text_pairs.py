"""Text pairs: a base for recipes that read a text or a pair of texts as one sequence."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from trainer.data.rows import text_column
from trainer.errors import InputError
from trainer.tasks.recipe import Recipe

if TYPE_CHECKING:
    from trainer.tokenizer import Tokenizer

PAIR = "text_pair"
"""The default column of second texts."""
COLUMNS = ("input_ids", "token_type_ids", "num_truncated_tokens")


class TextPairRecipe(Recipe):
    """A recipe that reads a text or a pair of texts; subclasses define the two options."""

    text: str
    text_pair: str | None

    @property
    def text_columns(self) -> tuple[str, ...]:
        return (self.text,) if self.text_pair is None else (self.text, self.text_pair)

    def for_columns(self, columns: Iterable[str]) -> Self:
        found = PAIR if self.text_pair is None and PAIR in columns else self.text_pair
        return replace(self, text_pair=found)  # type: ignore[type-var]

    def refuse_unread(self, columns: Iterable[str]) -> None:
        refuse_unread_pair(columns, self.text_pair)


def encoded_texts(
    rows: Mapping[str, Sequence[Any]],
    text: str,
    text_pair: str | None,
    tokenizer: "Tokenizer",
    max_length: int,
) -> dict[str, list[Any]]:
    """Columns for `Recipe.features`: a sequence for each row, cut to `max_length` tokens."""
    texts, pairs = text_column(rows, text, "recipe.text"), None
    refuse_unread_pair(rows, text_pair)
    if text_pair is not None:
        pairs = text_column(rows, text_pair, "recipe.text_pair")
    encoded = tokenizer(
        texts, pairs, truncation=True, max_length=max_length, return_num_truncated_tokens=True
    )
    return {name: encoded[name] for name in COLUMNS if name in encoded}


def encoded_groups(
    samples: Sequence[Sequence[str]],
    tokenizer: "Tokenizer",
    max_length: int,
    first: Sequence[str] | None = None,
) -> dict[str, list[Any]]:
    """Columns for `Recipe.features` of samples with several texts: a sequence for each text.

    `first` has a text for each sample; all sequences of the sample start with it.
    """
    from trainer.tokenizer.supervised_ids import regrouped

    sizes = [len(texts) for texts in samples]
    columns = [[text for texts in samples for text in texts]]
    if first is not None:
        columns.insert(0, [text for text, n in zip(first, sizes, strict=True) for _ in range(n)])
    encoded = tokenizer(
        *columns, truncation=True, max_length=max_length, return_num_truncated_tokens=True
    )
    found = {name: regrouped(encoded[name], sizes) for name in COLUMNS if name in encoded}
    found["num_truncated_tokens"] = [sum(each) for each in found["num_truncated_tokens"]]
    return found


def refuse_unread_pair(columns: Iterable[str], text_pair: str | None) -> None:
    """Raise InputError for a column of second texts that no setting names."""
    if text_pair is None and PAIR in columns:
        found = f"null, but the rows have a column '{PAIR}'"
        accepted = f"recipe.text_pair={PAIR}, or no such column (dataset.columns renames)"
        raise InputError(f"recipe.text_pair: {found}; accepted: {accepted}")
