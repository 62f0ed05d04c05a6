"""Arguments: what users give the Trainer, checked in one place and made into what it works with."""

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from numbers import Integral
from pathlib import Path
from typing import Any

from torch import nn

from trainer.agreement import agree, check_length, check_metrics, check_set_names, learn
from trainer.callbacks.callback import Callback
from trainer.data.given_rows import as_table, named_sets, set_key
from trainer.data.samples import is_rows
from trainer.errors import InputError, nearest
from trainer.metrics.metric import Metric
from trainer.metrics.named import metrics_of
from trainer.models.auto import TASKS
from trainer.recipe import LossOnly, Recipe
from trainer.settings import TrainSettings
from trainer.tokenizer import Tokenizer


@dataclass(frozen=True)
class Arguments:
    """What a Trainer works with."""

    model: nn.Module
    recipe: Recipe
    """Completed by the training rows."""
    settings: TrainSettings
    tokenizer: Any
    train: Any
    """Rows, as a table where there is a recipe, or samples."""
    evaluation: dict[str, Any]
    """Rows or samples by the name of their set; '' for a single one."""
    metrics: dict[str, Metric]
    callbacks: list[Callback]


def checked(
    model: Any,
    recipe: Any,
    settings: Any,
    loss: Any,
    tokenizer: Any,
    train: Any,
    evaluation: Any,
    metrics: Any,
    callbacks: Any,
) -> Arguments:
    """The arguments of `Trainer`, each in the type that the loop needs.

    A path of a model or a tokenizer is loaded, a class of a recipe, a callback or a metric is
    called, and a metric's name is looked up. Raises InputError, in one line, for anything else.
    """
    chosen = _recipe(recipe, loss)
    sets = named_sets(evaluation)
    if recipe is not None:
        train = _table(train, "dataset.train")
        sets = {name: _table(rows, set_key(name)) for name, rows in sets.items()}
    if recipe is not None and is_rows(train):
        chosen = learn(chosen, train)
    path = model if isinstance(model, (str, Path)) else None
    model = _model(model, chosen)
    tokenizer = _tokenizer(tokenizer, path)
    if recipe is not None and is_rows(train):
        agree(model, chosen)
    check_set_names(sets)
    by_key = metrics_of(metrics)
    if by_key and isinstance(chosen, LossOnly):
        found = "a plain loss gives no predictions that they could compare"
        raise InputError(f"metrics: {found}; accepted: none, or a recipe")
    check_metrics(chosen, by_key)
    if any(map(is_rows, [train, *sets.values()])):
        check_length(model, chosen)
    watching = _callbacks(callbacks)
    return Arguments(model, chosen, _settings(settings), tokenizer, train, sets, by_key, watching)


def _table(rows: Any, where: str) -> Any:
    """Rows as a table; samples as they are."""
    return as_table(rows, where) if is_rows(rows) else rows


def _recipe(recipe: Any, loss: Any) -> Recipe:
    if (recipe is None) == (loss is None):
        raise InputError("Trainer: give either a recipe or a loss")
    if loss is not None:
        if not callable(loss) or isinstance(loss, (type, nn.Module)):
            accepted = "a function of (outputs, batch) that returns (sum, count)"
            raise InputError(f"loss: found {_kind(loss)}; accepted: {accepted}")
        return LossOnly(loss)
    found = _made(recipe, Recipe, "recipe")
    if not isinstance(found, Recipe):
        accepted = "accepted: a recipe, such as recipes.sequence_classification's"
        raise InputError(f"recipe: found {_kind(recipe)}; {accepted} SequenceClassification()")
    return found


def _settings(settings: Any) -> TrainSettings:
    if settings is None:
        return TrainSettings()
    settings = _made(settings, TrainSettings, "settings")
    if isinstance(settings, TrainSettings):
        return settings
    if not isinstance(settings, Mapping):
        raise InputError(f"settings: found {_kind(settings)}; accepted: TrainSettings(...)")
    known = [each.name for each in fields(TrainSettings)]
    for name in settings:
        if name not in known:
            hint = nearest(str(name), known) or f"; accepted: {', '.join(known)}"
            raise InputError(f"settings: no setting '{name}'{hint}")
    return TrainSettings(**settings)


def _model(model: Any, recipe: Recipe) -> nn.Module:
    if isinstance(model, (str, Path)):
        if isinstance(recipe, LossOnly):
            raise InputError("model: found a path without a recipe; accepted: a module, or both")
        head = recipe.head
        return TASKS[head.task].from_pretrained(str(model), **head.config)
    if not isinstance(model, nn.Module):
        accepted = "accepted: a model of this package, a torch.nn.Module with a loss, or a path"
        raise InputError(f"model: found {_kind(model)}; {accepted}")
    if not isinstance(recipe, LossOnly) and _of_transformers(model):
        task = recipe.head.task.title().replace("_", "").replace("CausalLm", "CausalLM")
        accepted = f"a path, or trainer.AutoModelFor{task}.from_pretrained(path)"
        raise InputError(f"model: found transformers' {type(model).__name__}; accepted: {accepted}")
    return model


def _tokenizer(tokenizer: Any, model_path: str | Path | None) -> Any:
    """The tokenizer; by default that of a model that is given as a path."""
    if tokenizer is None:
        tokenizer = model_path
    if isinstance(tokenizer, (str, Path)):
        return Tokenizer.from_pretrained(str(tokenizer))
    if tokenizer is None or isinstance(tokenizer, Tokenizer):
        return tokenizer
    whose = "transformers' " if _of_transformers(tokenizer) else ""
    accepted = "a path, or trainer.AutoTokenizer.from_pretrained(path)"
    raise InputError(f"tokenizer: found {whose}{_kind(tokenizer)}; accepted: {accepted}")


def check_run_facts(output_dir: Any, seed: Any) -> None:
    """Raise InputError for a folder or a seed of another type."""
    if output_dir is not None and not isinstance(output_dir, (str, Path)):
        raise InputError(f"output_dir: found {_kind(output_dir)}; accepted: a path, or None")
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise InputError(f"seed: found {_kind(seed)}; accepted: a whole number")


def _callbacks(callbacks: Any) -> list[Callback]:
    if callbacks is None:
        return []
    one = isinstance(callbacks, (Callback, type)) or not isinstance(callbacks, Iterable)
    found = [_made(each, Callback, "callbacks") for each in ([callbacks] if one else callbacks)]
    for callback in found:
        if not isinstance(callback, Callback):
            accepted = "accepted: trainer.callbacks.callback.Callback objects"
            raise InputError(f"callbacks: found {_kind(callback)}; {accepted}")
    return found


def _made(given: Any, kind: type, where: str) -> Any:
    """An object where its class was given; anything else as it is."""
    if not (isinstance(given, type) and issubclass(given, kind)):
        return given
    needed = [
        name
        for name, parameter in inspect.signature(given).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if needed:
        accepted = f"accepted: {given.__name__}({', '.join(f'{n}=...' for n in needed)})"
        raise InputError(f"{where}: found the class {given.__name__}; {accepted}")
    return given()


def _of_transformers(thing: Any) -> bool:
    return any(kind.__module__.split(".")[0] == "transformers" for kind in type(thing).__mro__)


def _kind(thing: Any) -> str:
    return f"the class {thing.__name__}" if isinstance(thing, type) else type(thing).__name__
