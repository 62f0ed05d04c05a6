"""The generate job: completes prompts from the command line, standard input or a file."""

import os
from collections.abc import Iterator
from typing import Any

from trainer.data.command_line_texts import typed_texts
from trainer.data.output_rows import print_rows, print_written, write_rows
from trainer.errors import InputError, RowError
from trainer.plurals import plural
from trainer.runs.run import Run
from trainer.terminal.activity import doing, done
from trainer.terminal.console import shown
from trainer.terminal.standard_streams import require_output

COLUMNS = ("prompt", "messages", "text")
"""The names that a column of prompts may have; the first of them that the file has is used."""


def prepare(run: Run) -> bool:
    """Do nothing; the job runs in one process."""
    return True


def run(run: Run) -> int:
    """Stream the completion of a single prompt, or write a JSON line for each completion."""
    if int(os.environ.get("RANK", "0")) > 0:
        return 0
    if run.output.file is None:
        require_output()
    rows, column = _rows(run)
    alone = len(rows) == 1 and run.generation.num_return_sequences == 1
    if alone and run.input.file is None and run.output.file is None:
        _stream(run, rows[0][column])
        return 0
    completed = _completions(run, rows, column)
    if run.output.file is not None:
        write_rows(run.output.file, completed)
        print_written(len(rows) * run.generation.num_return_sequences, run.output.file)
    else:
        from trainer.rendering.answers import answer_lines

        print_rows(completed, None if run.output.json else answer_lines)
    return 0


def _rows(run: Run) -> tuple[Any, str]:
    """The rows to complete, and the name of the column with their prompts."""
    given = run.input
    if given.text is not None:
        raise InputError("input.text: job=generate takes input.prompt; accepted: job=predict")
    if (given.file is None) == (given.prompt is None):
        found = "no prompt" if given.file is None else "both"
        raise InputError(f"input: {found}; accepted: either input.prompt or input.file")
    if given.prompt is not None:
        return [{"prompt": text} for text in typed_texts(given.prompt, "input.prompt")], "prompt"
    from trainer.data.sources import read_files

    assert given.file is not None
    doing("reading the rows")
    rows = read_files(given.file, "input.file")
    column = next((name for name in COLUMNS if name in rows.column_names), None)
    if column is None or not len(rows):
        there = f"{plural(len(rows), 'row')}, columns: {', '.join(rows.column_names)}"
        raise InputError(
            f"input.file: {there}; accepted: rows with a column {' or '.join(COLUMNS)}"
        )
    return rows, column


def _stream(run: Run, prompt: str) -> None:
    from trainer.config.saved_recipe import prompt_style
    from trainer.generation.prompts import format_prompts
    from trainer.generation.text import stream
    from trainer.jobs.parts.model import load_generator

    model, tokenizer, ends = load_generator(run)
    prompts = format_prompts(tokenizer, [prompt], prompt_style(run))
    doing("reading the prompt")
    for _, piece in stream(model, tokenizer, prompts, run.generation, ends):
        done()
        print(shown(piece), end="", flush=True)
    print()


def _completions(run: Run, rows: Any, column: str) -> Iterator[dict[str, Any]]:
    """Yield each row with its completion, once for each completion of the row."""
    from trainer.config.saved_recipe import prompt_style
    from trainer.generation.text import generate
    from trainer.jobs.parts.model import load_generator

    model, tokenizer, ends = load_generator(run)
    style = prompt_style(run)
    batch_size = run.generation.batch_size
    for first in range(0, len(rows), batch_size):
        doing("generating", f"{first:,} of {plural(len(rows), 'prompt')} done")
        batch = [rows[n] for n in range(first, min(first + batch_size, len(rows)))]
        prompts = _formatted(tokenizer, rows, batch, first, column, style)
        texts = generate(model, tokenizer, prompts, run.generation, ends, first)
        copies = run.generation.num_return_sequences
        for row, text in zip((row for row in batch for _ in range(copies)), texts, strict=True):
            kept = {f"input_{k}" if k == "completion" else k: v for k, v in row.items()}
            yield {**kept, "completion": text}


def _formatted(
    tokenizer: Any, rows: Any, batch: list[dict[str, Any]], first: int, column: str, style: Any
) -> Any:
    """The formatted prompts of a batch, whose first row is row number `first` of `rows`.

    Raises InputError, which names the row, for a prompt of the wrong type or an invalid chat.
    """
    from trainer.generation.prompts import format_prompts

    prompts = [row[column] for row in batch]
    for row, prompt in enumerate(prompts, first):
        if not isinstance(prompt, (str, list)):
            accepted = "accepted: a text, or messages"
            raise InputError(f"{_place(rows, row)}: found the prompt {prompt!r:.40}; {accepted}")
    try:
        return format_prompts(tokenizer, prompts, style)
    except RowError as error:
        raise InputError(f"{_place(rows, first + error.row)}: {error}") from None


def _place(rows: object, row: int) -> str:
    """The location of a row, for error messages."""
    from trainer.data.row_locations import location_of

    if isinstance(rows, list):
        return f"input.prompt row {row}"
    return location_of(rows, row, "input.file")
