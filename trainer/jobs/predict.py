"""The predict job: texts from the command line, standard input, a file or a data set to answers."""

import os
from collections import deque
from collections.abc import Iterator
from typing import Any

from trainer.data.output_rows import print_rows, write_rows
from trainer.data.typed_texts import typed_texts
from trainer.errors import InputError, NonFiniteSamples
from trainer.recipe import Recipe
from trainer.run import Run
from trainer.standard_streams import require_output

ROWS_AT_A_TIME = 4096
"""Rows that are tokenized and held together, so that a file of any length takes little memory."""


def prepare(run: Run) -> bool:
    """Fetch the model, so that many processes find it there."""
    from trainer.jobs.parts import fetch_model

    fetch_model(run)
    return True


def run(run: Run) -> int:
    """Answer every row in the caller's order: JSON lines, or what output.file's name tells."""
    if run.output.file is None:
        require_output()
    if run.recipe is None:
        raise InputError(f"recipe: {run.model.path} names no task; give recipe=...")
    if not run.recipe.text_columns:
        found = type(run.recipe).__name__
        writes = "job=generate, job=chat, " * (run.recipe.head.task == "causal_lm")
        raise InputError(
            f"recipe: {found} has no answers for job=predict; accepted: {writes}job=evaluate"
        )
    rows = _rows(run, run.recipe)
    _check_rows(rows, run.recipe)
    answers = _answers(run, run.recipe, rows)
    if int(os.environ.get("RANK", "0")) > 0:
        deque(answers, maxlen=0)  # takes part, and leaves the writing to the main process
    elif run.output.file is None:
        print_rows(answers)
    else:
        write_rows(run.output.file, answers)
    return 0


def _rows(run: Run, recipe: Recipe) -> Any:
    """The rows to answer: a table, or a list of dicts with the recipe's text columns."""
    given = run.input
    if given.prompt is not None:
        raise InputError("input.prompt: job=predict takes input.text; accepted: job=generate")
    if given.system is not None:
        raise InputError(
            "input.system: job=predict does not read it; accepted: job=generate, job=chat"
        )
    if given.chat != "auto":
        raise InputError(
            "input.chat: job=predict does not read it; accepted: job=generate, job=chat"
        )
    if given.file is not None and given.text is not None:
        raise InputError("input: found both input.text and input.file; accepted: one of them")
    if given.file is not None:
        from trainer.data.sources import read_files

        return read_files(given.file, "input.file")
    if given.text is not None:
        return _typed_rows(given.text, given.text_pair, recipe)
    if run.dataset is None:
        raise InputError("input: nothing to answer; give input.text, input.file or a dataset")
    splits = run.dataset.load()
    if splits.test is not None:
        return splits.test
    return next(iter(splits.validation.values()), splits.train)


def _check_rows(rows: Any, recipe: Recipe) -> None:
    if len(rows) == 0:
        raise InputError("input: no rows")
    columns = list(rows[0]) if isinstance(rows, list) else rows.column_names
    for name in recipe.text_columns:
        if name not in columns:
            there = ", ".join(columns)
            raise InputError(f"input: no column '{name}'; there are: {there}; recipe.text names it")
    recipe.refuse_unread(columns)


def _typed_rows(text: str, pair: str | None, recipe: Recipe) -> list[dict[str, str]]:
    """Rows from the command line: a text, a JSON list of texts, or - for standard input's lines."""
    names = recipe.text_columns
    texts = typed_texts(text, "input.text")
    if len(names) == 1:
        if pair is not None:
            raise InputError("input.text_pair: the model reads one text, not a pair")
        return [{names[0]: one} for one in texts]
    if pair is None:
        raise InputError("input.text_pair: the model reads pairs; give the second text")
    pairs = typed_texts(pair, "input.text_pair")
    if len(pairs) != len(texts):
        raise InputError(f"input.text_pair: found {len(pairs)} for {len(texts)} texts")
    return [dict(zip(names, both, strict=True)) for both in zip(texts, pairs, strict=True)]


def _answers(run: Run, recipe: Recipe, rows: Any) -> Iterator[dict[str, Any]]:
    from trainer.console import make_console
    from trainer.jobs.parts import load_model, load_tokenizer
    from trainer.pipelines import Pipeline
    from trainer.rendering.evaluation_progress import EvaluationProgress

    tokenizer = load_tokenizer(run)
    model = load_model(run.model, recipe.head, run.seed)
    progress = EvaluationProgress(make_console(stderr=True), total=len(rows))
    pipeline = Pipeline(model, recipe, tokenizer, run.trainer, [progress])
    for start in range(0, len(rows), ROWS_AT_A_TIME):
        piece, progress.before = _piece(rows, start), start
        try:
            answers = pipeline.answers(piece)
        except NonFiniteSamples as error:
            samples = error.samples
            raise NonFiniteSamples("input", samples, error.total, first=start) from error
        finally:
            progress.on_close()
        for row, answer in zip(piece, answers, strict=True):
            kept = {f"input_{k}" if k in answer else k: value for k, value in row.items()}
            yield {**kept, **answer}


def _piece(rows: Any, start: int) -> Any:
    """Some of the rows; those of a table know the lines of the files that they come from."""
    import numpy as np

    from trainer.data.places import taken

    stop = min(start + ROWS_AT_A_TIME, len(rows))
    return rows[start:stop] if isinstance(rows, list) else taken(rows, np.arange(start, stop))
