"""Agreement: of rows, recipe and model, checked before the first step."""

import logging
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from trainer.data.batch import Samples, StackedSamples
from trainer.data.places import place_of
from trainer.errors import InputError, RowError
from trainer.metrics.metric import Metric
from trainer.models.pretrained import PretrainedModel, max_sequence_length
from trainer.recipe import Recipe
from trainer.settings import TrainSettings

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger("trainer")


def learn(recipe: Recipe, train: "Dataset", held_out: Iterable["Dataset"] = ()) -> Recipe:
    """The recipe completed by the rows. Raises InputError naming the row that cannot be used."""
    try:
        return recipe.learn(train, *held_out)
    except RowError as error:
        raise InputError(f"{place_of(train, error.row, 'dataset.train')}: {error}") from error


def agree(model: nn.Module, recipe: Recipe) -> None:
    """Give the model the recipe's label names, where its head has none yet.

    Raises InputError where it was built for another number of labels, or for other names.
    """
    wanted: dict[str, Any] = dict(recipe.head.config)
    if not isinstance(model, PretrainedModel) or "id2label" not in wanted:
        return
    found, names = model.config.id2label, wanted["id2label"]
    if len(found) != len(names):
        accepted = f"accepted: num_labels={len(names)} when the model is made"
        raise InputError(
            f"model: its head has {len(found)} labels, the recipe {len(names)}; {accepted}"
        )
    unnamed = all(re.fullmatch(r"LABEL_\d+", name) for name in found.values())
    if found != names and not unnamed:
        shown = ", ".join(list(found.values())[:8])
        raise InputError(f"model: its head was trained for {shown}, the recipe has other labels")
    model.config.id2label = names
    if "problem_type" in wanted:
        model.config.problem_type = wanted["problem_type"]


def check_run(
    settings: TrainSettings,
    recipe: Recipe,
    train: Samples | None,
    evaluation: Mapping[str, Samples],
    has_folder: bool,
) -> None:
    """Raise InputError where the settings ask for what the data or the lack of a folder forbids."""
    if train is None:
        raise InputError("Trainer: fit() needs a train_dataset")
    check_answers(recipe, train, "dataset.train")
    total = settings.total_steps(len(train))
    if (warmup := settings.resolved_warmup(total)) > total:
        raise InputError(
            f"trainer.warmup_steps: found {warmup}; accepted: at most {total}, the run"
        )
    for name in ("load_best_model_at_end", "early_stopping_patience"):
        if getattr(settings, name) and not evaluation:
            raise InputError(f"trainer.{name}: needs an evaluation set, and there is none")
    for name in ("load_best_model_at_end", "trackers"):
        if getattr(settings, name) and not has_folder:
            raise InputError(f"trainer.{name}: needs an output_dir to write to")


def tell_doubt(recipe: Recipe, train: Samples, model: nn.Module, tokenizer: Any) -> None:
    """Log what speaks against training this model on these samples, if the recipe knows a thing."""
    if not isinstance(model, PretrainedModel) or tokenizer is None:
        return
    if doubt := recipe.doubt(train, model, tokenizer):
        log.warning("dataset.train: %s", doubt)


def check_metrics(recipe: Recipe, metrics: Mapping[str, Metric]) -> None:
    """Raise InputError where a metric compares other things than the recipe predicts."""
    for key, metric in metrics.items():
        if recipe.measures and getattr(metric, "of_classes", None) is not None:
            name, own = type(recipe).__name__, " and ".join(recipe.measures)
            found = f"not for {name}, which measures {own} itself"
            raise InputError(f"metrics.{key}: {found}; accepted: metrics=none")
    problem = getattr(recipe, "problem", None)
    if problem is None:
        return
    fitting = {"regression": "regression", "multi_label": "multi_label"}
    for key, metric in metrics.items():
        of_classes = getattr(metric, "of_classes", None)
        sets = problem != "multi_label" or getattr(metric, "of_label_sets", True)
        if of_classes is not None and (of_classes == (problem == "regression") or not sets):
            wanted = fitting.get(problem, "classification")
            raise InputError(f"metrics.{key}: not for {problem}; accepted: metrics={wanted}")


def check_length(model: nn.Module, recipe: Recipe) -> None:
    """Raise InputError where the recipe's texts may have more tokens than the model positions."""
    wanted = getattr(recipe, "max_length", None)
    if wanted is None or not isinstance(model, PretrainedModel):
        return
    if wanted > (most := max_sequence_length(model.config)):
        raise InputError(
            f"recipe.max_length: found {wanted}; accepted: at most {most}, the model's"
        )


def check_answers(recipe: Recipe, samples: Samples, where: str) -> None:
    """Raise InputError where the rows lack a column that the loss compares with."""
    if isinstance(samples, StackedSamples):
        return
    missing = [name for name in recipe.fields if name not in getattr(samples, "fields", {})]
    if missing:
        column = ", ".join(recipe.answer_columns) or missing[0]
        raise InputError(f"{where}: no column '{column}' to compare with; recipe.label names it")


def check_set_names(names: Iterable[str]) -> None:
    """Evaluation sets are named in files and in metrics: plain names only."""
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_.-]*", name):
            raise InputError(f"dataset.validation: found set '{name}'; accepted: A-Z a-z 0-9 _ . -")
