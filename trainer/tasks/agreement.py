"""Agreement: checks before the first step that rows, recipe, model and settings fit together."""

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from torch import nn

from trainer.data.batch import Samples
from trainer.data.mixed_rows import source_key
from trainer.data.mixture_samples import MixtureSamples
from trainer.data.row_locations import location_of
from trainer.data.task_samples import TaskSamples
from trainer.errors import InputError, RowError
from trainer.interop.padded_model import PaddedModel
from trainer.metrics.metric import Metric
from trainer.models.configured import ConfiguredModel
from trainer.models.model import Model
from trainer.models.pretrained import PretrainedModel
from trainer.plurals import plural
from trainer.settings import TrainSettings
from trainer.tasks.plain_recipes import PlainRecipe
from trainer.tasks.processor import Processor
from trainer.tasks.recipe import Recipe
from trainer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger("trainer")


def learn(recipe: Recipe, train: "Dataset", held_out: Iterable["Dataset"] = ()) -> Recipe:
    """The recipe, with values such as label names filled in from its rows.

    Raises InputError, which names the row, if a row cannot be used.
    """
    try:
        return recipe.learn(train, *held_out)
    except RowError as error:
        raise InputError(f"{location_of(train, error.row, 'dataset.train')}: {error}") from error


def learn_from_model(recipe: Recipe, config: Mapping[str, Any]) -> Recipe:
    """The recipe, with values filled in from config.json, for rows of ids, which name no labels."""
    implied = recipe.fields_of_config(config) if config else {}
    unknown = {
        each.name: implied[each.name]
        for each in fields(recipe)  # type: ignore[arg-type]
        if each.name in implied and getattr(recipe, each.name) in (None, "auto", each.default)
    }
    return replace(recipe, **unknown)  # type: ignore[type-var]


def agree(model: nn.Module, recipe: Recipe) -> None:
    """Give the model the recipe's label names, if its head has none yet.

    Raises InputError if the model has the head of another task, if its head was built for other
    labels or another number of them, and if the recipe needs a feature that transformers models do
    not have.
    """
    _check_head(model, recipe)
    if isinstance(model, PaddedModel):
        _refuse_for_padded(recipe)
    wanted: dict[str, Any] = dict(recipe.head.config)
    if not isinstance(model, PretrainedModel) or "id2label" not in wanted:
        return
    found, names = model.config.id2label, wanted["id2label"]
    if len(found) != len(names):
        accepted = f"accepted: num_labels={len(names)} when creating the model"
        raise InputError(
            f"model: its head has {plural(len(found), 'label')}, the recipe {len(names)}; "
            f"{accepted}"
        )
    unnamed = all(re.fullmatch(r"LABEL_\d+", name) for name in found.values())
    if found != names and not unnamed:
        shown = ", ".join(list(found.values())[:8])
        raise InputError(f"model: its head was trained for {shown}, the recipe has other labels")
    model.config.id2label = names
    if "problem_type" in wanted:
        model.config.problem_type = wanted["problem_type"]


def _check_head(model: nn.Module, recipe: Recipe) -> None:
    """Raise InputError for a model with another head, since the loss cannot use its outputs."""
    task = recipe.head.task
    if isinstance(model, (Model, ConfiguredModel)) and model.task != task:
        found = f"{type(model).__name__} has the head '{model.task}'"
        accepted = f"the head '{task}', which model=PATH loads"
        raise InputError(f"model: {found}; {type(recipe).__name__} accepts {accepted}")


def _refuse_for_padded(recipe: Recipe) -> None:
    """Raise InputError for features that only this package's own models have."""
    name = type(recipe).__name__
    writes = recipe.head.task == "seq2seq_lm"
    if recipe.derived or (recipe.roles and not writes) or recipe.texts_per_pass:
        accepted = "accepted: seq2seq, or a recipe with one text per sample and no second model"
        raise InputError(f"model.backend: found transformers for {name}; {accepted}")
    if getattr(recipe, "evaluate_texts", False) and not writes:
        found = "found true with a model of transformers"
        raise InputError(f"recipe.evaluate_texts: {found}; accepted: false")


def check_run(
    settings: TrainSettings,
    recipe: Recipe,
    train: Samples | None,
    evaluation: Mapping[str, Samples],
    has_folder: bool,
) -> Samples:
    """Check that the settings fit the recipe, data and folder; returns the training samples.

    Raises InputError if they do not.
    """
    if train is None:
        raise InputError("Trainer: fit() needs a train_dataset")
    check_answers(recipe, train, "dataset.train")
    for name in ("load_best_model_at_end", "early_stopping_patience"):
        if getattr(settings, name) and not evaluation:
            raise InputError(f"trainer.{name}: needs an evaluation set, and there is none")
    if settings.lr_scheduler == "reduce_on_plateau" and not evaluation:
        found = "reduce_on_plateau needs an evaluation set, and there is none"
        raise InputError(f"trainer.lr_scheduler: {found}")
    if settings.label_smoothing and not recipe.has_classes:
        found = f"found {settings.label_smoothing}, and the task has no classes to spread it over"
        raise InputError(f"trainer.label_smoothing: {found}; accepted: 0")
    for name in ("load_best_model_at_end", "trackers"):
        if getattr(settings, name) and not has_folder:
            raise InputError(f"trainer.{name}: needs an output_dir to write to")
    return train


def check_warmup(settings: TrainSettings, total_steps: int) -> None:
    """Raise InputError if the warm-up is longer than the run."""
    if (warmup := settings.resolved_warmup(total_steps)) > total_steps:
        raise InputError(
            f"trainer.warmup_steps: found {warmup}; accepted: at most {total_steps}, all steps"
        )


def warn_about_data(
    recipe: Recipe, train: Samples, model: nn.Module, tokenizer: Processor | None
) -> None:
    """Log the recipe's warning about training this model on these samples, if it has one."""
    if not (isinstance(model, PretrainedModel) and isinstance(tokenizer, Tokenizer)):
        return
    parts: dict[str, tuple[Recipe, Samples]] = {"dataset.train": (recipe, train)}
    if isinstance(train, MixtureSamples):
        parts = {source_key(n): (train.recipes[n], each) for n, each in train.tables.items()}
    for where, (reader, samples) in parts.items():
        if doubt := reader.doubt(samples, model, tokenizer):
            log.warning("%s: %s", where, doubt)


def check_metrics(recipe: Recipe, metrics: Mapping[str, Metric], kind: str | None = None) -> None:
    """Raise InputError for a metric that does not accept the recipe's kind of comparison.

    `kind` is the kind of an actual comparison; by default `recipe.compares`.
    """
    kind = kind or recipe.compares
    name = type(recipe).__name__
    for key, metric in metrics.items():
        if kind is None:
            own = " and ".join(recipe.measures)
            found = f"{name} compares nothing" + (f"; it measures {own}" if own else "")
            raise InputError(f"metrics.{key}: {found}; accepted: metrics=none")
        if metric.kinds and kind not in metric.kinds:
            compared, group = " or ".join(metric.kinds), METRICS_OF.get(kind)
            accepted = f"metrics={group}" if group else f"a metric for {kind}, or metrics=none"
            raise InputError(
                f"metrics.{key}: compares {compared}, {name} gives {kind}; accepted: {accepted}"
            )


METRICS_OF = {
    "classes": "classification",
    "label_sets": "multi_label",
    "numbers": "regression",
    "answers": "question_answering",
    "spans": "entities",
    "rankings": "retrieval",
}
"""The option of the config group `metrics` for each kind of comparison."""


def check_length(model: nn.Module, recipe: Recipe) -> None:
    """Raise InputError if texts may have more tokens than the model has positions."""
    wanted = recipe.max_tokens
    most: int | None = None
    if isinstance(model, Model):
        most = model.longest_sequence
    if wanted is not None and most is not None and wanted > most:
        raise InputError(
            f"recipe.max_length: found {wanted}; accepted: at most {most}, the model's maximum"
        )


def check_answers(recipe: Recipe, samples: Samples, where: str) -> None:
    """Raise InputError if the samples lack a field that the loss needs."""
    if isinstance(recipe, PlainRecipe):
        return
    if isinstance(samples, TaskSamples):
        tasks: Mapping[str, Recipe] = recipe.tasks  # type: ignore[attr-defined]
        for name, table in samples.tables.items():
            check_answers(tasks[name], table, f"{where}, task '{name}'")
    if isinstance(samples, MixtureSamples):
        for name, table in samples.tables.items():
            check_answers(samples.recipes[name], table, source_key(name))
        return
    missing = [name for name in recipe.answer_fields if name not in getattr(samples, "fields", {})]
    if missing:
        column = ", ".join(recipe.answer_columns) or missing[0]
        raise InputError(f"{where}: no column '{column}' with answers; recipe.label names it")


def check_set_names(names: Iterable[str]) -> None:
    """Raise InputError if the name of a set cannot be part of a file name."""
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_.-]*", name):
            raise InputError(f"dataset.validation: found set '{name}'; accepted: A-Z a-z 0-9 _ . -")
