"""The inspect job: what a run would train on, as its model sees it."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trainer.errors import InputError
from trainer.recipe import Recipe
from trainer.run import Run

if TYPE_CHECKING:
    from trainer.data.reading import BadRow
    from trainer.data.tokens import TokenTable

TOKENS_AT_A_TIME = 1 << 20


def prepare(run: Run) -> bool:
    """Nothing: one process inspects."""
    return True


def run(run: Run) -> int:
    """Print samples of every set, what of them is learnt, and what was cut off or dropped."""
    from trainer.console import make_console, show
    from trainer.data.given_rows import set_key
    from trainer.data.tokens import default_cache_dir, tokenize
    from trainer.jobs.parts import load_data
    from trainer.rendering.samples import sample_text, set_summary

    if run.inspect.samples < 0 or run.inspect.max_tokens < 1:
        raise InputError("inspect: found less than 0 samples or 1 token; accepted: more")
    if int(os.environ.get("RANK", "0")) > 0:
        return 0
    recipe, tokenizer, splits = load_data(run)
    sets = {set_key(name): rows for name, rows in splits.validation.items()}
    console = make_console()
    for where, rows in {"dataset.train": splits.train, **sets}.items():
        table = tokenize(
            rows,
            recipe,
            tokenizer,
            cache_dir=default_cache_dir(),
            where=where,
            progress=True,
            bad_rows=splits.bad_rows,
        )
        learnt = tokens_learnt(recipe, table)
        show(console, set_summary(where, rows, table, learnt, recipe))
        for bad in table.dropped:
            show(console, _dropped(bad))
        for number in range(min(run.inspect.samples, len(table))):
            limit, marked = run.inspect.max_tokens, not console.is_terminal
            text = sample_text(number, table, recipe, tokenizer, limit, marked=marked)
            console.print(text, soft_wrap=True)  # a long line stays one
    for note in (*splits.notes, *map(_dropped, splits.bad_rows.dropped)):
        show(console, note)
    return 0


def _dropped(row: "BadRow") -> str:
    return f"dropped: {row.place}: {row.reason}"


def tokens_learnt(recipe: Recipe, table: "TokenTable") -> int | None:
    """The tokens of all samples that the model learns to write; None where it learns no tokens."""
    masks = [recipe.trained_on(table.collate(samples)) for samples in _pieces(table)]
    return sum(int(m.sum()) for m in masks if m is not None) if masks[0] is not None else None


def _pieces(table: "TokenTable") -> Iterator[Any]:
    from trainer.data.plan import evaluation_batches

    yield from evaluation_batches(table.lengths, TOKENS_AT_A_TIME)
