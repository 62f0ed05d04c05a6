"""Data of a run: loads its rows, completes its recipe from the rows, and makes samples."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, TypeAlias

from trainer.data.in_memory_rows import set_key
from trainer.data.mixed_rows import MixedRows
from trainer.data.mixture import Mixture
from trainer.data.preprocessing import check_streams, samples_of
from trainer.data.rows import Files, Splits
from trainer.data.streaming.shard_samples import fingerprint_of
from trainer.data.streaming.sharded_rows import ShardedRows
from trainer.data.tokens import default_cache_dir
from trainer.errors import InputError
from trainer.jobs.parts.processor import load_processor
from trainer.plurals import plural
from trainer.runs.run import Run
from trainer.tasks.agreement import learn
from trainer.tasks.processor import Processor
from trainer.tasks.recipe import Recipe
from trainer.tasks.source_recipes import learn_sources, naming_set, own_recipe, set_recipes
from trainer.terminal.activity import doing

if TYPE_CHECKING:
    from datasets import Dataset

    from trainer.data.batch import Samples

    TrainRows: TypeAlias = "Dataset | MixedRows | ShardedRows"


@dataclass(frozen=True)
class TrainingData:
    """The rows of a run, with the recipe and the processor that turn them into samples."""

    recipe: Recipe
    """The recipe, with values such as labels filled in from the training rows."""
    processor: Processor | None
    """The tokenizer, or the recipe's processor for other inputs."""
    splits: Splits
    set_recipes: Mapping[str, Recipe] = field(default_factory=dict)
    """Evaluation set -> its recipe, for sets whose options differ from those used in training."""

    @property
    def train(self) -> "TrainRows":
        """The training rows; `load_data` has checked that they exist."""
        assert self.splits.train is not None
        return self.splits.train

    @property
    def tables(self) -> "dict[str, TrainRows]":
        """Name in error messages -> rows, for the training rows and all evaluation sets."""
        named = {set_key(name): rows for name, rows in self.splits.validation.items()}
        return {"dataset.train": self.train, **named}

    def recipe_of(self, where: str) -> Recipe:
        """The recipe of one of the `tables`."""
        named = {set_key(name): recipe for name, recipe in self.set_recipes.items()}
        return named.get(where, self.recipe)

    def fingerprint(self, rows: "TrainRows", where: str) -> str:
        """A digest of the samples of one of the `tables`."""
        if isinstance(rows, ShardedRows):
            return fingerprint_of(rows, self.recipe, self.processor)
        return self.samples(rows, where, progress=False).fingerprint

    def samples(
        self, rows: "TrainRows", where: str, progress: bool = True, processes: int = 1
    ) -> "Samples":
        """The samples of one of the `tables`, read from the cache or made by `processes` processes.

        For a stream, only its first rows become samples, which are not cached.
        """
        streamed = isinstance(rows, ShardedRows)
        return samples_of(
            rows.head if isinstance(rows, ShardedRows) else rows,
            self.recipe_of(where),
            self.processor,
            where=where,
            cache_dir=None if streamed else default_cache_dir(),
            progress=progress,
            bad_rows=self.splits.bad_rows,
            processes=processes,
        )


def load_data(run: Run) -> TrainingData:
    """The rows of a run, its processor, and its recipe with values filled in from the rows."""
    recipe = run.recipe
    assert recipe is not None
    splits = load_splits(run)
    train = splits.train
    if train is None:
        raise InputError("dataset.train: nothing to train on; give dataset.train or dataset.path")
    if isinstance(train, ShardedRows):
        return _of_stream(run, recipe, train, splits)
    # Validation rows that were split off from the training rows also define labels; the user's own
    # validation sets must not have labels that the training rows lack.
    split_here = getattr(run.dataset, "validation", None) is None
    if isinstance(train, MixedRows):
        completed, train = learn_sources(recipe, train, _held_out_here(run.dataset, splits))
        splits = replace(splits, train=train)
    else:
        completed = learn(recipe, train, splits.validation.values() if split_here else ())
    processor = load_processor(run, completed, lambda: _texts(completed, train))
    return TrainingData(completed, processor, splits, set_recipes(completed, splits.set_recipes))


def _held_out_here(dataset: object, splits: Splits) -> "dict[str, Dataset]":
    """The validation rows that were held out from training rows, by source of the mixture."""
    sources = dataset.mixture if isinstance(dataset, Mixture) else {}
    return {
        name: splits.validation[name]
        for name, source in sources.items()
        if name in splits.validation and getattr(source.dataset, "validation", None) is None
    }


def _texts(recipe: Recipe, train: "Dataset | MixedRows") -> Iterable[str]:
    """The texts of the training rows; those of a mixture in the order of its sources."""
    if not isinstance(train, MixedRows):
        return recipe.texts(train)
    sources = train.sources.items()
    return chain.from_iterable(own_recipe(recipe, s.recipe, n).texts(s.rows) for n, s in sources)


def _of_stream(run: Run, recipe: Recipe, train: ShardedRows, splits: Splits) -> TrainingData:
    """The data of a run whose training rows are a stream, of which only the first rows are read.

    Raises InputError if labels, class weights or a vocabulary would have to be derived from all
    rows.
    """
    check_streams(recipe, "dataset.train")
    if run.tokenizer.train:
        found = "found true, and the rows of a stream are not all known before training"
        raise InputError(f"tokenizer.train: {found}; accepted: tokenizer.path, or false")
    completed = learn(recipe, train.head)
    names = getattr(completed, "labels", None)
    if names and getattr(recipe, "labels", None) is None:
        found = "found null, and the rows of a stream are not all known before training"
        shown = ", ".join(map(str, names))
        few = f"the first {plural(len(train.head), 'row')} have [{shown}]"
        raise InputError(f"recipe.labels: {found}; accepted: all labels; {few}")
    if getattr(recipe, "class_weights", None) == "balanced":
        found = "found balanced, and the labels of a stream are not counted before training"
        raise InputError(f"recipe.class_weights: {found}; accepted: {{label: weight}}, or null")
    return TrainingData(completed, load_processor(run, completed), splits)


def load_splits(run: Run) -> Splits:
    """The rows of the run's data set, by split; held-out rows are stratified by the label."""
    source = run.dataset
    if source is None:
        raise InputError("dataset: nothing given; accepted: dataset.train=FILE, dataset.path=PLACE")
    doing("reading the data")
    columns = run.recipe.answer_columns if run.recipe is not None else ()
    takes_label = getattr(type(source), "load", None) in (Files.load, Mixture.load)
    if takes_label and len(columns) == 1:
        assert isinstance(source, (Files, Mixture))
        return source.load(columns[0])
    return source.load()  # a subclass may override `load` without an argument


def fill_cache(recipe: Recipe, processor: Processor | None, splits: Splits) -> None:
    """Tokenize the validation sets to fill the token cache."""
    own = set_recipes(recipe, splits.set_recipes)
    for name, rows in splits.validation.items():
        with naming_set(set_key(name) if name else ""):
            samples_of(
                rows,
                own.get(name, recipe),
                processor,
                where=set_key(name),
                cache_dir=default_cache_dir(),
                progress=True,
                bad_rows=splits.bad_rows,
            )


@contextmanager
def warnings_hidden(logger_name: str) -> Iterator[None]:
    """A context in which a logger prints no warnings."""
    logger = logging.getLogger(logger_name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
