"""The inspect job: shows samples of a run's data as its model would read them."""

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from trainer.errors import InputError
from trainer.runs.run import Run
from trainer.tasks.recipe import Recipe
from trainer.terminal import activity

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

    from trainer.data.read_options import BadRow
    from trainer.data.tokens import TokenTable
    from trainer.jobs.parts.data import TrainingData

TOKENS_AT_A_TIME = 1 << 20


def prepare(run: Run) -> bool:
    """Do nothing; the job runs in one process."""
    return True


def run(run: Run) -> int:
    """Print samples of every data set, with the trained tokens marked, and then the dropped rows.

    If parameters have different learning rates, their groups are printed, too.
    """
    from trainer.data.in_memory_rows import set_key
    from trainer.data.mixed_rows import source_key
    from trainer.data.mixture_samples import MixtureSamples
    from trainer.data.streaming.sharded_rows import ShardedRows
    from trainer.data.task_samples import TaskSamples
    from trainer.data.tokens import TokenTable
    from trainer.jobs.parts.data import load_data
    from trainer.jobs.parts.next_commands import of_same_config
    from trainer.rendering.layout import labelled
    from trainer.rendering.sample_text import columns_summary
    from trainer.terminal.console import make_console, show

    if run.inspect.samples < 0 or run.inspect.max_tokens < 1:
        found = f"found samples={run.inspect.samples}, max_tokens={run.inspect.max_tokens}"
        raise InputError(f"inspect: {found}; accepted: samples from 0, max_tokens from 1")
    if int(os.environ.get("RANK", "0")) > 0:
        return 0
    data = load_data(run)
    splits = data.splits
    sets = {set_key(name): rows for name, rows in splits.validation.items()}
    console = make_console()
    train = splits.train.head if isinstance(splits.train, ShardedRows) else splits.train
    for where, rows in {"dataset.train": train, **sets}.items():
        samples = data.samples(rows, where)
        activity.done()
        own = replace(data, recipe=data.recipe_of(where))
        if isinstance(samples, TokenTable):
            _show_tokens(run, own, samples, rows, where)
        elif isinstance(samples, TaskSamples):
            for name, table in samples.tables.items():
                own = replace(data, recipe=data.recipe.tasks[name])  # type: ignore[attr-defined]
                of_task = rows.select(samples.rows[samples.samples_of(name)])
                _show_tokens(run, own, table, of_task, f"{where}, task {name}")
        elif isinstance(samples, MixtureSamples):
            for name, table in samples.tables.items():
                own = replace(data, recipe=samples.recipes[name])
                _show_tokens(run, own, table, rows.sources[name].rows, source_key(name))
            for note in samples.notes(data.recipe.group_size):
                show(console, note)
        else:
            show(console, columns_summary(where, rows, samples, data.recipe))
    for note in (*splits.notes, *map(_dropped, splits.bad_rows.dropped)):
        show(console, note)
    if run.trainer.parameter_groups or run.trainer.layer_decay is not None:
        _show_rates(run, data)
    show(console, labelled(of_same_config(run, "train")))
    return 0


def _show_rates(run: Run, data: "TrainingData") -> None:
    from trainer.jobs.parts.model import load_model, own_vocabulary
    from trainer.rendering.rates import rates_table
    from trainer.terminal.console import make_console, show
    from trainer.training.freezing import trainable
    from trainer.training.parameter_groups import NamedParameters, parameter_groups

    vocabulary = own_vocabulary(run, data.processor)
    # with "auto" no weights are read, since only names and shapes are needed
    model = load_model(run.model, data.recipe.head, run.seed, vocabulary, strategy="auto")
    named = NamedParameters(trainable(model), model)
    names = {parameter: name for name, parameter in named}
    groups = parameter_groups(named, run.trainer)
    show(make_console(), rates_table(groups, names, run.trainer.learning_rate))


def _show_tokens(
    run: Run, data: "TrainingData", table: "TokenTable", rows: "Dataset", where: str
) -> None:
    from trainer.rendering.sample_text import sample_text, set_summary
    from trainer.terminal.console import make_console, show
    from trainer.tokenizer import Tokenizer

    assert isinstance(data.processor, Tokenizer)
    console = make_console()
    num_trained = num_trained_tokens(data.recipe, table)
    show(console, set_summary(where, rows, table, num_trained, data.recipe))
    for bad in table.dropped:
        show(console, _dropped(bad))
    for number in range(min(run.inspect.samples, len(table))):
        limit, marked = run.inspect.max_tokens, not console.is_terminal
        text = sample_text(number, table, data.recipe, data.processor, limit, marked=marked)
        console.print(text, soft_wrap=True)  # leaves the wrapping of long lines to the terminal


def _dropped(row: "BadRow") -> str:
    return f"dropped: {row.place}: {row.reason}"


def num_trained_tokens(recipe: Recipe, table: "TokenTable") -> int | None:
    """The number of tokens with a loss; None if the loss is not computed per token."""
    masks = [recipe.trained_on(table.collate(samples)) for samples in _pieces(table)]
    return sum(int(m.sum()) for m in masks if m is not None) if masks[0] is not None else None


def _pieces(table: "TokenTable") -> "Iterator[np.ndarray]":
    from trainer.data.plan import evaluation_batches

    yield from evaluation_batches(table.lengths, TOKENS_AT_A_TIME)
