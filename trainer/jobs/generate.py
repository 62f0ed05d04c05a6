"""The generate job: prompts from the command line, standard input or a file, gone on with."""

import os
from collections.abc import Iterator
from typing import Any

from trainer.console import shown
from trainer.data.output_rows import print_rows, write_rows
from trainer.data.typed_texts import typed_texts
from trainer.errors import InputError, RowError
from trainer.run import Run
from trainer.standard_streams import require_output

COLUMNS = ("prompt", "messages", "text")
"""Where a file's prompts are: the first of these that it has."""


def prepare(run: Run) -> bool:
    """Nothing: one process generates."""
    return True


def run(run: Run) -> int:
    """Write what follows each prompt: a single one's as it comes, of several one JSON line each."""
    if int(os.environ.get("RANK", "0")) > 0:
        return 0
    if run.output.file is None:
        require_output()
    rows, column = _rows(run)
    if len(rows) == 1 and run.input.file is None and run.output.file is None:
        _stream(run, rows[0][column])
        return 0
    completed = _completed(run, rows, column)
    if run.output.file is not None:
        write_rows(run.output.file, completed)
    else:
        print_rows(completed)
    return 0


def _rows(run: Run) -> tuple[Any, str]:
    """The rows to go on with, and the column of their prompts."""
    given = run.input
    if given.text is not None:
        raise InputError("input.text: job=generate takes input.prompt; accepted: job=predict")
    if (given.file is None) == (given.prompt is None):
        found = "nothing to go on with" if given.file is None else "both"
        raise InputError(f"input: {found}; accepted: either input.prompt or input.file")
    if given.prompt is not None:
        return [{"prompt": text} for text in typed_texts(given.prompt, "input.prompt")], "prompt"
    from trainer.data.sources import read_files

    assert given.file is not None
    rows = read_files(given.file, "input.file")
    column = next((name for name in COLUMNS if name in rows.column_names), None)
    if column is None or not len(rows):
        there = f"{len(rows)} rows, columns: {', '.join(rows.column_names)}"
        raise InputError(
            f"input.file: {there}; accepted: rows with a column {' or '.join(COLUMNS)}"
        )
    return rows, column


def _stream(run: Run, prompt: str) -> None:
    from trainer.generation.asking import as_asked
    from trainer.generation.text import stream
    from trainer.jobs.parts import load_generator
    from trainer.launching.saved_recipe import manner_of_asking

    model, tokenizer, ends = load_generator(run)
    asked = as_asked(tokenizer, [prompt], manner_of_asking(run))
    for _, piece in stream(model, tokenizer, asked, run.generation, ends):
        print(shown(piece), end="", flush=True)
    print()


def _completed(run: Run, rows: Any, column: str) -> Iterator[dict[str, Any]]:
    """Each row with its completion, a batch at a time."""
    from trainer.generation.text import generate
    from trainer.jobs.parts import load_generator
    from trainer.launching.saved_recipe import manner_of_asking

    model, tokenizer, ends = load_generator(run)
    how = manner_of_asking(run)
    at_a_time = run.generation.batch_size
    for first in range(0, len(rows), at_a_time):
        batch = [rows[n] for n in range(first, min(first + at_a_time, len(rows)))]
        asked = _asked(tokenizer, [row[column] for row in batch], first, how)
        texts = generate(model, tokenizer, asked, run.generation, ends, first)
        for row, text in zip(batch, texts, strict=True):
            kept = {f"input_{k}" if k == "completion" else k: v for k, v in row.items()}
            yield {**kept, "completion": text}


def _asked(tokenizer: Any, prompts: list[Any], first: int, how: Any) -> Any:
    """What `as_asked` makes of a batch of rows, the first of which is number `first`."""
    from trainer.generation.asking import as_asked

    for row, prompt in enumerate(prompts, first):
        if not isinstance(prompt, (str, list)):
            accepted = "accepted: a text, or messages"
            raise InputError(f"input row {row}: found the prompt {prompt!r:.40}; {accepted}")
    try:
        return as_asked(tokenizer, prompts, how)
    except RowError as error:
        raise InputError(f"input row {first + error.row}: {error}") from None
