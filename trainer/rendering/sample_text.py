"""Samples: shows tokenized rows as text, in which the parts to train on are colored or marked."""

from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any

from rich.text import Text

from trainer.data.batch import FlatBatch, Samples
from trainer.data.tokens import TokenTable
from trainer.plurals import plural
from trainer.rendering.figures import share
from trainer.rendering.layout import labelled
from trainer.rendering.start import labels
from trainer.tasks.recipe import Recipe
from trainer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from datasets import Dataset

LEARNT = "bold green"
"""The style of text that the model is trained on."""
OPENS, CLOSES = "{+", "+}"
"""The marks around text that the model is trained on, for output without colors (as in wdiff)."""


def set_summary(
    where: str, rows: "Dataset", table: TokenTable, learnt: int | None, recipe: Recipe
) -> Text:
    """Describe a data set: its columns, rows, samples, tokens and labels.

    `learnt` is the number of tokens that the loss counts; None: the loss is not per token.
    """
    counts = {name: plural(number, "row") for name, number in table.counts.items() if number}
    lengths = table.lengths
    tokens = f"{table.num_tokens:,}"
    if learnt is not None:
        tokens += f", {learnt:,} of them learnt ({share(learnt / table.num_tokens)})"
    lines = {
        **_set_lines(where, rows, table),
        "tokens": tokens,
        "lengths": f"{lengths.min():,} to {lengths.max():,}, {lengths.mean():,.1f} on average",
    }
    found = labels(recipe.label_rule or "", recipe.class_counts(table))
    return labelled(lines | found | counts).append("\n")


def columns_summary(where: str, rows: "Dataset", samples: Samples, recipe: Recipe) -> Text:
    """Describe a data set without tokens: its columns, rows, samples and labels."""
    found = labels(recipe.label_rule or "", recipe.class_counts(samples))
    return labelled(_set_lines(where, rows, samples) | found).append("\n")


def _set_lines(where: str, rows: "Dataset", samples: Samples) -> dict[str, str]:
    columns = ", ".join(f"{name} ({kind_of(f)})" for name, f in rows.features.items())
    counts = f"{plural(len(rows), 'row')}, {plural(len(samples), 'sample')}"
    return {where: counts, "columns": columns}


def kind_of(feature: object) -> str:
    """The usual name of the type of a column's cells (see trainer/data/column_types.py)."""
    if names := getattr(feature, "names", None):
        return f"one of {plural(len(names), 'class')}"
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
    """A sample's decoded sequences below each other, after a line with its row and its labels.

    With `marked`, text that the model is trained on is enclosed in {+ and +}. Only the first
    `max_tokens` tokens are shown.
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
    notes = recipe.token_notes(batch) or [None] * len(ids)
    start = 0
    for number, length in enumerate(batch.sequence_lengths.tolist()):
        stop = min(start + length, max_tokens)
        if batch.roles is not None:
            text.append(f"{batch.role_names[int(batch.roles[number])]}: ", style="dim")
        for learnt_here, piece, note in _noted(start, stop, ids, marks, notes, tokenizer):
            shown = f"{OPENS}{piece}{CLOSES}" if learnt_here and marked else piece
            text.append(shown, style=LEARNT if learnt_here or note else "")
            text.append(f"/{note}" if note else "", style="dim")
        text.append("\n")
        start += length
        if start >= max_tokens and (left := len(ids) - max_tokens) > 0:
            return text.append(f"... and {plural(left, 'token')} more\n", style="dim")
    return text


def _runs(ids: list[int], marks: list[bool], tokenizer: Tokenizer) -> Iterator[tuple[bool, str]]:
    """Decode runs of adjacent tokens; yields (whether they are trained on, text)."""
    for learnt, run in groupby(zip(ids, marks, strict=True), key=lambda pair: pair[1]):
        numbers = [number for number, _ in run]
        yield learnt, tokenizer.decode(numbers, clean_up_tokenization_spaces=False)


def _noted(
    start: int,
    stop: int,
    ids: list[int],
    marks: list[bool],
    notes: Sequence[str | None],
    tokenizer: Tokenizer,
) -> Iterator[tuple[bool, str, str | None]]:
    """Yield the runs of a sequence with their notes: (trained on, text, note or None).

    A token with a note begins a new run, preceded by a space.
    """
    bounds = [start, *(n for n in range(start + 1, stop) if notes[n] is not None), stop]
    for first, last in pairwise(bounds):
        runs = list(_runs(ids[first:last], marks[first:last], tokenizer))
        for number, (learnt, piece) in enumerate(runs):
            spaced = f" {piece}" if first > start and number == 0 else piece
            yield learnt, spaced, notes[first] if number == len(runs) - 1 else None


def _answers(batch: FlatBatch, table: TokenTable, recipe: Recipe) -> Iterator[tuple[str, Any]]:
    """Yield the name and value of each field that belongs to the sample as a whole."""
    names = recipe.class_names
    for name, field in batch.fields.items():
        if table.axes.get(name) == "sample":
            value: Any = field[0].tolist()
            yield name, names[value] if names and name == "labels" else value
