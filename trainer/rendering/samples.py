"""Samples: tokenized rows as text, with what is learnt in colour, or marked where there is none."""

from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.text import Text

from trainer.data.batch import FlatBatch
from trainer.data.tokens import TokenTable
from trainer.recipe import Recipe
from trainer.rendering.figures import plural, share
from trainer.rendering.layout import labelled
from trainer.rendering.start import labels
from trainer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from datasets import Dataset

LEARNT = "bold green"
OPENS, CLOSES = "{+", "+}"
"""Around what is learnt, where there are no colours; as wdiff marks what is new."""


def set_summary(
    where: str, rows: "Dataset", table: TokenTable, learnt: int | None, recipe: Recipe
) -> Text:
    """A set's columns, rows, samples and tokens, its labels, and what of it is not trained on."""
    counts = {name: f"{number:,} rows" for name, number in table.counts.items() if number}
    lengths = table.lengths
    tokens = f"{table.num_tokens:,}"
    if learnt is not None:
        tokens += f", {learnt:,} of them learnt ({share(learnt / table.num_tokens)})"
    lines = {
        where: f"{plural(len(rows), 'row')}, {plural(len(table), 'sample')}",
        "columns": ", ".join(f"{name} ({kind_of(f)})" for name, f in rows.features.items()),
        "tokens": tokens,
        "lengths": f"{lengths.min():,} to {lengths.max():,}, {lengths.mean():,.1f} on average",
    }
    found = labels(recipe.label_rule or "", recipe.class_counts(table))
    return labelled(lines | found | counts).append("\n")


def kind_of(feature: Any) -> str:
    """What the cells of a column are, in words (the rule is in trainer/data/cells.py)."""
    if names := getattr(feature, "names", None):
        return f"one of {len(names)} classes"
    if (inner := getattr(feature, "feature", None)) is not None:
        return f"lists: {kind_of(inner)}"
    kind = str(getattr(feature, "dtype", "struct"))
    kinds = {"string": "text", "int": "whole numbers", "float": "numbers", "bool": "true or false"}
    kinds |= {"json": "JSON", "null": "nothing", "large_string": "text", "uint": "whole numbers"}
    return (
        "JSON"
        if type(feature).__name__ == "ExactJson"
        else kinds.get(kind.rstrip("0123456789"), kind)
    )


def sample_text(
    number: int,
    table: TokenTable,
    recipe: Recipe,
    tokenizer: Tokenizer,
    max_tokens: int,
    *,
    marked: bool,
) -> Text:
    """A sample's sequences, decoded, one below the other, and its answer where that is no text.

    `marked`: what is learnt stands between {+ and +}, besides its colour.
    """
    batch = table.collate([number])
    text = Text(f"sample {number}", style="dim")
    if table.rows is not None:
        text.append(f", row {int(table.rows[number])}")
    for name, answer in _answers(batch, table, recipe):
        text.append(f", {name} {answer}")
    text.append("\n")
    learnt = recipe.trained_on(batch)
    ids = batch.input_ids.tolist()
    marks = [False] * len(ids) if learnt is None else learnt.tolist()
    start = 0
    for length in batch.sequence_lengths.tolist():
        stop = min(start + length, max_tokens)
        for learnt_here, piece in _runs(ids[start:stop], marks[start:stop], tokenizer):
            shown = f"{OPENS}{piece}{CLOSES}" if learnt_here and marked else piece
            text.append(shown, style=LEARNT if learnt_here else "")
        text.append("\n")
        start += length
        if start >= max_tokens and (left := len(ids) - max_tokens) > 0:
            return text.append(f"... and {plural(left, 'token')} more\n", style="dim")
    return text


def _runs(ids: list[int], marks: list[bool], tokenizer: Tokenizer) -> Iterator[tuple[bool, str]]:
    """The text of neighbours that are learnt, or are not."""
    for learnt, run in groupby(zip(ids, marks, strict=True), key=lambda pair: pair[1]):
        numbers = [number for number, _ in run]
        yield learnt, tokenizer.decode(numbers, clean_up_tokenization_spaces=False)


def _answers(batch: FlatBatch, table: TokenTable, recipe: Recipe) -> Iterator[tuple[str, Any]]:
    """The fields that belong to the sample as a whole."""
    names = recipe.class_names
    for name, field in batch.fields.items():
        if table.axes.get(name) == "sample":
            value: Any = field[0].tolist()
            yield name, names[value] if names and name == "labels" else value
