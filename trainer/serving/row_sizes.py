"""Row sizes: refuses requests whose rows contain too much text for the model."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trainer.errors import InputError
from trainer.serving.faults import RequestFault
from trainer.serving.row_worker import Row
from trainer.tasks.recipe import Recipe
from trainer.tokenizer import Tokenizer


def refuse_too_much_text(rows: Sequence[Row], columns: Sequence[str], most: int) -> None:
    """Raise RequestFault (413) for rows with more than `most` characters, before tokenization.

    If a row has a text and a list (a query and its documents, a question and its choices), the text
    counts once per entry of the list, because it is tokenized with each entry.
    """
    found = sum(_characters([row[name] for name in columns if name in row]) for row in rows)
    if found > most:
        text = (
            f"inputs: found {found:,} characters, where a query counts once for each of its texts"
        )
        raise RequestFault(413, f"{text}; accepted: up to {most:,}, serve.max_body_bytes")


def refuse_too_many_tokens(
    rows: Sequence[Row], recipe: Recipe, tokenizer: Tokenizer, most: int
) -> None:
    """Raise RequestFault (413) if the model would read more than `most` tokens for the rows.

    A row may become several sequences: one for each choice, or one for each window of a long text.
    Rows that the recipe refuses are skipped, because their error is reported later, when they are
    answered.
    """
    found = 0
    for row in rows:
        try:
            found += recipe.num_read_tokens(_columns([row], recipe), tokenizer)
        except (InputError, RecursionError):
            continue
        if found > most:
            accepted = f"up to {most:,}, serve.max_inputs x recipe.max_length"
            text = f"inputs: found more than {most:,} tokens, including all choices and windows"
            raise RequestFault(413, f"{text}; accepted: {accepted}")


def refuse_too_long(rows: Sequence[Row], recipe: Recipe, tokenizer: Tokenizer) -> None:
    """Raise RequestFault (413) for the first row from which the recipe would cut off tokens."""
    made = recipe.features(_columns(rows, recipe), tokenizer)
    for index, cut in enumerate(made.get("num_truncated_tokens", ())):
        if cut:
            most = recipe.max_tokens
            found = f"inputs[{index}]: found more than {most} tokens"
            raise RequestFault(413, f"{found}; accepted: up to {most}, or truncate=true")


def _columns(rows: Sequence[Row], recipe: Recipe) -> dict[str, list[Any]]:
    known = [name for name in recipe.text_columns if all(name in row for row in rows)]
    return {name: [row[name] for row in rows] for name in known}


def _characters(cells: Sequence[object]) -> int:
    in_cells = sum(len(cell) for cell in cells if isinstance(cell, str))
    in_lists = list(_texts([cell for cell in cells if not isinstance(cell, str)]))
    return max(1, len(in_lists)) * in_cells + sum(map(len, in_lists))


def _texts(cells: list[object]) -> Iterator[str]:
    """Yield the texts in lists and objects that may be nested to any depth."""
    remaining = cells
    while remaining:
        cell = remaining.pop()
        if isinstance(cell, str):
            yield cell
        elif isinstance(cell, Mapping):
            remaining.extend(cell.values())
        elif isinstance(cell, Sequence):
            remaining.extend(cell)
