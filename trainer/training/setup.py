"""Setup: a Trainer's checked arguments, its model on a device, and the samples of its rows."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from trainer.callbacks.callback import Callback
from trainer.callbacks.progress import Progress
from trainer.data.batch import Samples
from trainer.data.in_memory_rows import as_table, is_stream, set_key
from trainer.data.mixed_rows import MixedRows, source_key
from trainer.data.plain_rows import input_names_of
from trainer.data.preprocessing import (
    as_samples,
    check_streams,
    is_rows,
    rows_of,
    stream_samples,
)
from trainer.data.read_options import BadRows
from trainer.data.sample_rows import SampleRows
from trainer.data.streaming.shard_samples import ShardSamples
from trainer.data.streaming.sharded_rows import ShardedRows
from trainer.data.streams import StreamSamples
from trainer.data.unread_columns import unread_note
from trainer.devices.placement import Placement, place
from trainer.devices.ranks import Ranks
from trainer.metrics.direction import metric_for_best_model
from trainer.metrics.functions import FunctionMetric
from trainer.metrics.metric import Metric
from trainer.models.sharded import is_sharded
from trainer.rendering.evaluation_progress import EvaluationProgress
from trainer.runs.context import RunContext
from trainer.runs.folder import RunFolder, resume_from
from trainer.settings import TrainSettings
from trainer.tasks.agreement import check_answers
from trainer.tasks.plain_recipes import PlainRecipe
from trainer.tasks.processor import Processor
from trainer.tasks.recipe import Recipe
from trainer.tasks.setting_checks import check_sharding
from trainer.tasks.slices import check_slices
from trainer.tasks.source_recipes import naming_set, own_recipe, set_recipes
from trainer.training.arguments import Arguments
from trainer.training.plateau import watchers
from trainer.training.seams import Seams
from trainer.training.strategy import chosen_strategy
from trainer.training.stream_end import StreamEnd
from trainer.training.tracking import trackers_of

log = logging.getLogger("trainer")


@dataclass(frozen=True)
class Setup:
    """The parts that training and evaluation share; only the model's weights change."""

    recipe: Recipe
    settings: TrainSettings
    tokenizer: Processor | None
    """The tokenizer, or the processor that the recipe uses instead."""
    placement: Placement
    train: Samples | None
    evaluation: Mapping[str, Samples]
    """Name of an evaluation set -> its samples; a single unnamed set has the name ''."""
    evaluation_rows: Mapping[str, Any]
    """Name of an evaluation set -> the rows of its samples."""
    metrics: Mapping[str, Metric]
    callbacks: list[Callback]
    folder: RunFolder | None
    seed: int
    context: RunContext
    seams: Seams
    """The user's replacements for parts of training."""
    set_recipes: Mapping[str, Recipe]
    """The recipe of each evaluation set that has its own options."""
    unread: tuple[str, ...]
    """Lines that list unread columns of the training rows."""
    model_path: str
    """The model's path; empty if the model was created in Python."""
    bad_rows: BadRows
    """The policy for bad rows; it records the rows that were left out."""
    resume: str
    """trainer.resume with an absolute path, since the process may change its working folder."""

    @property
    def model(self) -> nn.Module:
        """The model, on its device."""
        return self.placement.model

    @property
    def ranks(self) -> Ranks:
        """The processes that train together."""
        return self.placement.ranks

    def set_recipe(self, name: str) -> Recipe:
        """The recipe of an evaluation set."""
        return self.set_recipes.get(name, self.recipe)

    @property
    def shows_progress(self) -> bool:
        """Whether a callback shows progress, so that long preparations show theirs too."""
        return any(isinstance(each, (Progress, EvaluationProgress)) for each in self.callbacks)

    def sample_rows(self, name: str) -> SampleRows:
        """The rows of an evaluation set's samples."""
        return rows_of(self.evaluation_rows[name], self.evaluation[name])

    def table_of(self, dataset: object, where: str) -> object:
        """Convert rows to a table if the recipe reads rows; return other data sets unchanged."""
        is_table = is_rows(dataset) and not isinstance(self.recipe, PlainRecipe)
        return as_table(dataset, where) if is_table else dataset

    def samples_of(
        self,
        dataset: object,
        where: str,
        *,
        recipe: Recipe | None = None,
        cache_dir: Path | None = None,
        needs_answers: bool = True,
    ) -> Samples:
        """Convert a data set to samples with `recipe` (default: the run's recipe).

        Error messages call the data set `where`. Every rank must call this method. Without
        `needs_answers`, all answers are ignored if one of them is invalid.
        """
        with self.ranks.main_first():  # the other ranks read rank 0's results from the cache
            return as_samples(
                dataset,
                recipe or self.recipe,
                self.tokenizer,
                self.model,
                where=where,
                cache_dir=cache_dir,
                progress=self.ranks.is_main and self.shows_progress,
                bad_rows=self.bad_rows if needs_answers else None,
                needs_answers=needs_answers,
                collator=self.seams.collator,
            )

    def stream_of(self, stream: object, where: str) -> StreamSamples:
        """Make training samples from a stream of rows. Raises InputError without `max_steps`."""
        settings = self.settings
        if isinstance(stream, ShardedRows) and not isinstance(self.recipe, PlainRecipe):
            return self._sharded(stream)
        return stream_samples(
            stream,
            self.recipe,
            self.tokenizer,
            self.model,
            where=where,
            num_samples=settings.total_steps(None) * settings.global_batch_size,
            batch_size=settings.global_batch_size,
            seed=self.seed,
            bad_rows=self.bad_rows,
            collator=self.seams.collator,
        )

    def _sharded(self, rows: ShardedRows) -> ShardSamples:
        settings = self.settings
        check_streams(self.recipe, "dataset.train")
        return ShardSamples(
            rows,
            self.recipe,
            self.tokenizer,
            num_samples=settings.total_steps(None) * settings.global_batch_size,
            batch_size=settings.global_batch_size,
            seed=self.seed,
            bad_rows=self.bad_rows,
            collator=self.seams.collator,
            ranks=self.ranks,
        )

    def best_metric(self) -> tuple[str, bool]:
        """The result that selects the best model, and whether a greater value is better."""
        return best_metric(
            self.settings, self.recipe, self.metrics, list(self.evaluation), self.seams
        )


def set_up(
    given: Arguments, output_dir: str | Path | None, seed: int, context: RunContext
) -> Setup:
    """Place the model on its device and make samples of all rows. Every rank must call it."""
    folder = RunFolder(output_dir) if output_dir is not None else None
    model, settings, devices = given.model, given.settings, context.devices
    choose = partial(
        chosen_strategy, devices.effective_strategy, devices.cpu_offload, model, settings
    )
    placement = place(model, settings, devices, choose)
    own_recipes = _set_recipes(given, context)
    if is_sharded(placement.model):
        check_sharding(given.recipe, trains=given.train is not None)
        for name, recipe in own_recipes.items():
            with naming_set(set_key(name)):
                check_sharding(recipe, trains=False)
    sets = list(given.evaluation)
    trackers = trackers_of(given.settings.trackers, given.callbacks)
    settings_callbacks = watchers(
        given.settings,
        lambda: best_metric(given.settings, given.recipe, given.metrics, sets, given.seams)[0],
    )
    if given.seams.optimizer is not None:
        given.seams.optimizer.check(given.model, given.settings)
    setup = Setup(
        recipe=given.recipe,
        settings=given.settings,
        tokenizer=given.tokenizer,
        placement=placement,
        train=None,
        evaluation={},
        evaluation_rows=given.evaluation,
        metrics=given.metrics,
        callbacks=[*given.callbacks, *trackers, *settings_callbacks],
        folder=folder,
        seed=seed,
        context=context,
        seams=given.seams,
        set_recipes=own_recipes,
        unread=_unread(given, placement.ranks),
        model_path=context.description.model_path or given.model_path,
        bad_rows=context.data.bad_rows or BadRows(),
        resume=resume_from(given.settings),
    )
    return _with_samples(setup, given.train, context.data.cache_dir)


def _with_samples(setup: Setup, train_rows: object, cache_dir: Path | None) -> Setup:
    train = None
    if train_rows is not None:
        train = _train_samples(setup, train_rows, cache_dir)
    evaluation = {}
    for name, rows in setup.evaluation_rows.items():
        where, recipe = set_key(name), setup.set_recipe(name)
        with naming_set(where if name else ""):
            evaluation[name] = setup.samples_of(rows, where, recipe=recipe, cache_dir=cache_dir)
        check_answers(recipe, evaluation[name], where)
        check_slices(recipe, rows, where)
    return replace(setup, train=train, evaluation=evaluation)


def _set_recipes(given: Arguments, context: RunContext) -> dict[str, Recipe]:
    """The recipes of evaluation sets that have their own options or a mixture source's name."""
    found = set_recipes(given.recipe, context.data.set_recipes)
    if isinstance(given.train, MixedRows):
        sources = given.train.sources
        named = {name: sources[name].recipe for name in given.evaluation if name in sources}
        found = set_recipes(given.recipe, named) | found
    return found


def _unread(given: Arguments, ranks: Ranks) -> tuple[str, ...]:
    """Log and return the lines about unread columns."""
    if not ranks.is_main or not is_rows(given.train) or is_stream(given.train):
        return ()
    names = input_names_of(given.model)
    parts = {"dataset.train": (given.train, given.recipe)}
    if isinstance(given.train, MixedRows):
        parts = {
            source_key(name): (source.rows, own_recipe(given.recipe, source.recipe, name))
            for name, source in given.train.sources.items()
        }
    notes = [
        unread_note(rows, recipe, given.tokenizer, names, where)
        for where, (rows, recipe) in parts.items()
    ]
    for note in filter(None, notes):
        log.info(note)
    return tuple(filter(None, notes))


def _train_samples(setup: Setup, rows: object, cache_dir: Path | None) -> Samples:
    if not is_rows(rows) or not is_stream(rows):
        return setup.samples_of(rows, "dataset.train", cache_dir=cache_dir)
    samples = setup.stream_of(rows, "dataset.train")
    if setup.folder is not None and setup.settings.save_steps == "epoch":
        log.warning(
            "dataset.train is a stream: without trainer.save_steps the run saves only at its end"
        )
    setup.callbacks.append(StreamEnd(samples, setup.settings.global_batch_size))
    return samples


def best_metric(
    settings: TrainSettings,
    recipe: Recipe,
    metrics: Mapping[str, Metric],
    sets: Sequence[str],
    seams: Seams,
) -> tuple[str, bool]:
    """The result that selects the best model, and whether a greater value is better."""
    computed = seams.functions.compute is not None or any(
        isinstance(metric, FunctionMetric) for metric in metrics.values()
    )
    name, greater = metric_for_best_model(
        settings.metric_for_best_model, recipe, metrics, sets, computed
    )
    chosen = settings.greater_is_better
    return name, greater if chosen is None else chosen
