"""The predict job: predicts answers for texts from a command line or pipe, or for a data set."""

import os
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trainer.data.output_rows import print_rows, print_written, write_rows
from trainer.errors import InputError, NonFiniteSamples
from trainer.jobs.parts.input_rows import InputSet, input_sets
from trainer.plurals import plural
from trainer.runs.run import Run
from trainer.tasks.recipe import Recipe
from trainer.terminal.activity import doing
from trainer.terminal.standard_streams import require_output

if TYPE_CHECKING:
    from trainer.jobs.parts.neighbors import Corpus
    from trainer.pipelines import Pipeline
    from trainer.rendering.evaluation_progress import EvaluationProgress

ROWS_AT_A_TIME = 4096
"""The number of rows that are predicted and written at once."""


def prepare(run: Run) -> bool:
    """Download the model once, before several processes start."""
    from trainer.jobs.parts.model import fetch_model

    fetch_model(run)
    return True


def run(run: Run) -> int:
    """Write the answers in the order of the rows, in the format of output.file or as JSON lines."""
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
    sets = input_sets(run, run.recipe)
    answers = _answers(run, sets)
    if int(os.environ.get("RANK", "0")) > 0:
        deque(answers, maxlen=0)  # computes this rank's share; the main process writes the answers
    elif run.output.file is None:
        from trainer.rendering.answers import answer_lines

        print_rows(answers, None if run.output.json else answer_lines)
    else:
        write_rows(run.output.file, answers)
        print_written(sum(len(each.rows) for each in sets), run.output.file)
    return 0


def _answers(run: Run, sets: list[InputSet]) -> Iterator[dict[str, Any]]:
    """The rows of all sets with their answers; rows of named sets also have the name, as `set`."""
    from trainer.jobs.parts.model import load_trained_model
    from trainer.jobs.parts.processor import load_processor
    from trainer.pipelines import Pipeline
    from trainer.rendering.evaluation_progress import EvaluationProgress
    from trainer.terminal.console import make_console

    recipes = [each.recipe.for_prediction for each in sets]
    searching = [_search_recipes(each) for each in recipes] if run.input.corpus else None
    processor = load_processor(run, recipes[0])
    model = load_trained_model(run.model, recipes[0].head, run.seed)
    total, before = sum(len(each.rows) for each in sets), 0
    doing(f"answering {plural(total, 'row')}")
    corpus = None
    if searching is not None:
        corpus = _corpus(run, Pipeline(model, searching[0][1], processor, run.trainer))
        recipes = [query for query, _ in searching]
    progress = EvaluationProgress(make_console(stderr=True), total=total)
    for each, recipe in zip(sets, recipes, strict=True):
        pipeline = Pipeline(model, recipe, processor, run.trainer, [progress])
        for start in range(0, len(each.rows), ROWS_AT_A_TIME):
            piece, progress.before = _piece(each.rows, start), before + start
            answers = _of_piece(pipeline, piece, each.where, start, progress)
            if corpus is not None:
                answers = list(corpus.nearest(answers, run.input.neighbors))
            for row, answer in zip(piece, answers, strict=True):
                added = {"set": each.name, **answer} if each.name else answer
                kept = {f"input_{k}" if k in added else k: value for k, value in row.items()}
                yield {**kept, **added}
        before += len(each.rows)


def _of_piece(
    pipeline: "Pipeline", piece: Any, where: str, start: int, progress: "EvaluationProgress"
) -> list[dict[str, Any]]:
    """The answers to consecutive rows of a set; `start` is the number of the first one."""
    try:
        return pipeline.answers(piece)
    except NonFiniteSamples as error:
        raise NonFiniteSamples(where, error.samples, error.total, first=start) from error
    finally:
        progress.on_close()


def _corpus(run: Run, pipeline: "Pipeline") -> "Corpus":
    """The corpus to search, with its vectors, which `pipeline` computes if it has none."""
    from trainer.jobs.parts.neighbors import load_corpus

    assert run.input.corpus is not None
    return load_corpus(run.input.corpus, run.input.neighbors, pipeline)


def _search_recipes(recipe: Recipe) -> tuple[Recipe, Recipe]:
    """The recipes that embed queries and the corpus. Raises InputError if there are none."""
    query, document = recipe.for_search("query"), recipe.for_search("document")
    if query is None or document is None:
        found = f"{type(recipe).__name__} gives no vectors to search by"
        raise InputError(f"input.corpus: {found}; accepted: recipe=sentence_embedding")
    return query, document


def _piece(rows: Any, start: int) -> Any:
    """Up to ROWS_AT_A_TIME rows from `start` on; a table keeps the file and line of each row."""
    import numpy as np

    from trainer.data.row_locations import select_rows

    stop = min(start + ROWS_AT_A_TIME, len(rows))
    return rows[start:stop] if isinstance(rows, list) else select_rows(rows, np.arange(start, stop))
