"""Arguments: checks the Trainer's arguments and converts them to the types that training uses."""

import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from trainer import hub
from trainer.callbacks.callback import Callback
from trainer.callbacks.progress import Progress
from trainer.data.in_memory_rows import as_table, is_stream, named_sets, set_key
from trainer.data.mixed_rows import MixedRows
from trainer.data.preprocessing import is_rows
from trainer.data.tokenized_rows import is_tokenized
from trainer.errors import InputError
from trainer.interop.self_saving import is_of_transformers
from trainer.metrics.metric import Metric
from trainer.metrics.named import metrics_of
from trainer.models.auto import AutoConfig
from trainer.models.of_task import model_class
from trainer.settings import TrainSettings
from trainer.tasks.agreement import (
    agree,
    check_length,
    check_metrics,
    check_set_names,
    learn,
    learn_from_model,
)
from trainer.tasks.plain_recipes import LossOnly, OwnLoss, PlainRecipe
from trainer.tasks.processor import Processor
from trainer.tasks.recipe import Recipe
from trainer.tasks.source_recipes import learn_sources
from trainer.tokenizer import Tokenizer
from trainer.training.seams import Seams


@dataclass(frozen=True)
class RawArguments:
    """The arguments of `Trainer` by name, before they are checked."""

    model: object
    recipe: object
    settings: object
    loss: object
    tokenizer: object
    train: object
    evaluation: object
    metrics: object
    callbacks: list[Callback]
    seams: Seams


@dataclass(frozen=True)
class Arguments:
    """The Trainer's arguments, checked and converted."""

    model: nn.Module
    recipe: Recipe
    """The recipe, with values such as labels filled in from the training rows."""
    settings: TrainSettings
    tokenizer: Processor | None
    """The tokenizer, or the processor that the recipe uses instead."""
    train: object
    """Rows (with a recipe: a table, a stream or a mixture), or samples."""
    evaluation: dict[str, Any]
    """Name -> evaluation set (rows or samples); a single unnamed set has the name ''."""
    metrics: dict[str, Metric]
    callbacks: list[Callback]
    seams: Seams
    model_path: str
    """The model's path; empty if a module was given."""


def checked(given: RawArguments, seed: int) -> Arguments:
    """The arguments of `Trainer`, each in the type that the loop needs.

    Models and tokenizers are loaded if paths are given. Recipes, callbacks and metrics may be given
    as classes, which are instantiated, and metrics also by name. Weights that are missing from a
    model's files are initialized with `seed`. Raises InputError for arguments of the wrong type.
    """
    chosen = _recipe(given)
    sets = named_sets(given.evaluation)
    train = given.train
    if not isinstance(chosen, PlainRecipe):
        as_given = isinstance(train, MixedRows) or (is_rows(train) and is_stream(train))
        train = train if as_given else _table(train, "dataset.train")
        if isinstance(train, Dataset) and not len(train):
            raise InputError("dataset.train: no rows; at least one is needed")
        sets = {name: _table(rows, set_key(name)) for name, rows in sets.items()}
        if isinstance(train, MixedRows):
            sources = train.sources.values()
            if all(is_tokenized(each.rows.column_names, chosen) for each in sources):
                chosen = learn_from_model(chosen, _config_of(given.model))
            chosen, train = learn_sources(chosen, train)
        else:
            chosen = _completed(chosen, train, sets, given.model)
    path = given.model if isinstance(given.model, (str, Path)) else None
    model = _model(given.model, chosen, seed)
    tokenizer = _processor(given.tokenizer, path, chosen)
    has_rows = any(map(is_rows, [train, *sets.values()]))
    if not isinstance(chosen, PlainRecipe) and (has_rows or _has_known_head(chosen)):
        agree(model, chosen)
    check_set_names(sets)
    by_key = metrics_of(given.metrics)
    if not isinstance(chosen, PlainRecipe):
        check_metrics(chosen, by_key)
    texts = (
        [source.rows for source in train.sources.values()]
        if isinstance(train, MixedRows)
        else [train]
    )
    if any(_is_text(rows, chosen) for rows in [*texts, *sets.values()]):
        check_length(model, chosen)
    return Arguments(
        model=model,
        recipe=_with_shift(chosen, model),
        settings=_settings(given.settings),
        tokenizer=tokenizer,
        train=train,
        evaluation=sets,
        metrics=by_key,
        callbacks=given.callbacks,
        seams=given.seams,
        model_path="" if path is None else str(path),
    )


def _is_text(rows: object, recipe: Recipe) -> bool:
    """Whether rows contain text that is still to be tokenized and truncated."""
    columns = getattr(rows, "column_names", None) or ()
    return is_rows(rows) and not is_tokenized(columns, recipe)


def _table(rows: object, where: str) -> object:
    """Convert rows to a table; return samples unchanged."""
    return as_table(rows, where) if is_rows(rows) else rows


def _recipe(given: RawArguments) -> Recipe:
    recipe, loss = given.recipe, given.loss
    if recipe is not None and loss is not None:
        raise InputError("Trainer: give either a recipe or a loss")
    if loss is not None:
        if not callable(loss) or isinstance(loss, (type, nn.Module)):
            accepted = "a function of (outputs, batch) that returns (sum, count)"
            raise InputError(f"loss: found {_type_name(loss)}; accepted: {accepted}")
        return LossOnly(loss)
    if recipe is None:
        if isinstance(given.model, (str, Path)):
            raise InputError(
                "model: found a path without a recipe; accepted: a module, or a path with a recipe"
            )
        return OwnLoss()
    found = _instance(recipe, Recipe, "recipe")
    if not isinstance(found, Recipe):
        settings = isinstance(found, (TrainSettings, Mapping))
        found_value = f"found {_type_name(recipe)}" + "; pass settings as settings=..." * settings
        accepted = "accepted: a recipe, such as recipes.sequence_classification's"
        raise InputError(f"recipe: {found_value}; {accepted} SequenceClassification()")
    return found


def _completed(recipe: Recipe, train: Any, sets: Mapping[str, object], model: object) -> Recipe:
    """The recipe, with values such as labels filled in from the training rows.

    Without training rows, or if the rows hold token ids, the values come from the model's config.
    """
    if train is None and (isinstance(model, nn.Module) or any(map(is_rows, sets.values()))):
        return _completed_from_model(recipe, model)
    if not is_rows(train):
        return recipe
    if is_stream(train):
        return _checked_for_stream(recipe)
    if is_tokenized(train.column_names, recipe):
        return learn_from_model(recipe, _config_of(model))
    return learn(recipe, train)


def _completed_from_model(recipe: Recipe, model: object) -> Recipe:
    """The recipe, with values such as labels filled in from the model's config."""
    try:
        return learn_from_model(recipe, _config_of(model))
    except InputError:  # no config.json of a known family; loading reports errors
        return recipe


def _checked_for_stream(recipe: Recipe) -> Recipe:
    """Return the recipe. Raises InputError if its head depends on the rows of the stream."""
    try:
        recipe.head  # noqa: B018  # raises InputError if labels are not known
    except InputError as error:
        text = f"{error}; the rows of a stream are not read before training"
        raise InputError(text) from error
    return recipe


def _has_known_head(recipe: Recipe) -> bool:
    """Whether the recipe has a head and already knows the labels that the head depends on."""
    if type(recipe).head is Recipe.head:  # a recipe for samples needs no head
        return False
    try:
        recipe.head  # noqa: B018
    except InputError:
        return False
    return True


def _config_of(model: object) -> Mapping[str, Any]:
    """The entries of a model's config; empty if the model has no config."""
    if isinstance(model, (str, Path)):
        return AutoConfig.from_pretrained(str(model)).to_dict()
    to_dict = getattr(getattr(model, "config", None), "to_dict", None)
    return {} if to_dict is None else dict(to_dict())


def _with_shift(recipe: Recipe, model: nn.Module) -> Recipe:
    """The recipe; for a model's own loss, `shifted` is set if that is a next-token loss."""
    if not isinstance(recipe, OwnLoss):
        return recipe
    return OwnLoss(shifted=getattr(model, "loss_type", "") == "ForCausalLM")


def _settings(settings: object) -> TrainSettings:
    if settings is None:
        return TrainSettings()
    settings = _instance(settings, TrainSettings, "settings")
    if isinstance(settings, TrainSettings):
        return settings
    if not isinstance(settings, Mapping):
        raise InputError(f"settings: found {_type_name(settings)}; accepted: TrainSettings(...)")
    return TrainSettings(**{str(name): value for name, value in settings.items()})


def _model(model: object, recipe: Recipe, seed: int) -> nn.Module:
    if isinstance(model, (str, Path)):
        if isinstance(recipe, PlainRecipe):
            raise InputError(
                "model: found a path without a recipe; accepted: a module, or a path with a recipe"
            )
        head = recipe.head
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(seed))
            loaded: nn.Module = model_class(head.task).from_pretrained(str(model), **head.config)
        return loaded
    if not isinstance(model, nn.Module):
        accepted = "accepted: a model of this package, a torch.nn.Module with a loss, or a path"
        raise InputError(f"model: found {_type_name(model)}; {accepted}")
    _refuse_wrapped(model)
    if not isinstance(recipe, PlainRecipe) and is_of_transformers(model):
        task = recipe.head.task.title().replace("_", "").replace("CausalLm", "CausalLM")
        accepted = f"a path, or trainer.AutoModelFor{task}.from_pretrained(path)"
        raise InputError(f"model: found transformers' {type(model).__name__}; accepted: {accepted}")
    return model


def _refuse_wrapped(model: nn.Module) -> None:
    """Raise InputError for a module that torch has wrapped, for example with torch.compile.

    A wrapper adds a prefix to parameter names, so other programs could not load a saved model.
    """
    found = type(model).__name__
    if isinstance(getattr(model, "_orig_mod", None), nn.Module):
        accepted = "the module itself; TrainSettings(compile=True) compiles it"
    elif isinstance(model, (nn.DataParallel, DistributedDataParallel)):
        accepted = (
            "the module itself (model.module); launch.num_processes trains on several devices"
        )
    else:
        return
    raise InputError(f"model: found {found}, a wrapper of torch; accepted: {accepted}")


def _processor(
    tokenizer: object, model_path: str | Path | None, recipe: Recipe
) -> Processor | None:
    """The tokenizer or processor; by default the one at the model's path."""
    if tokenizer is None:
        tokenizer = model_path
    if not recipe.reads_text and (tokenizer is None or isinstance(tokenizer, (str, Path))):
        return recipe.load_processor(None if tokenizer is None else hub.find(str(tokenizer)))
    if isinstance(tokenizer, (str, Path)):
        return Tokenizer.from_pretrained(str(tokenizer))
    if tokenizer is None or isinstance(tokenizer, Tokenizer):
        return tokenizer
    if not recipe.reads_text and isinstance(tokenizer, Processor):
        return tokenizer
    if isinstance(recipe, PlainRecipe) and hasattr(tokenizer, "save_pretrained"):
        return cast(Processor, tokenizer)  # it only has to pad rows of token ids, and to be saved
    whose = "transformers' " if is_of_transformers(tokenizer) else ""
    accepted = "a path, or trainer.AutoTokenizer.from_pretrained(path)"
    raise InputError(f"tokenizer: found {whose}{_type_name(tokenizer)}; accepted: {accepted}")


def check_run_facts(output_dir: object, seed: object) -> None:
    """Raise InputError for a folder or a seed of the wrong type, or a URL given as a Path."""
    if output_dir is not None and not isinstance(output_dir, (str, Path)):
        raise InputError(f"output_dir: found {_type_name(output_dir)}; accepted: a path, or None")
    if isinstance(output_dir, Path) and re.match(r"[a-z0-9]{2,}:/", str(output_dir)):
        found = f"found the path '{output_dir}', which has lost a slash"
        raise InputError(f"output_dir: {found}; accepted: the URL as a string")
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise InputError(f"seed: found {_type_name(seed)}; accepted: a whole number")


def with_progress(callbacks: object, progress: object) -> list[Callback]:
    """The callbacks as a list, with a Progress callback if `progress` is true and there is none.

    Raises InputError for arguments of the wrong type.
    """
    if not isinstance(progress, bool):
        raise InputError(f"progress: found {_type_name(progress)}; accepted: True, False")
    found = _callbacks(callbacks)
    if progress and not any(isinstance(each, Progress) for each in found):
        return [Progress(stream="stderr"), *found]
    return found


def _callbacks(callbacks: Any) -> list[Callback]:
    if callbacks is None:
        return []
    one = isinstance(callbacks, (Callback, type)) or not isinstance(callbacks, Iterable)
    return [one_callback(each) for each in ([callbacks] if one else callbacks)]


def one_callback(given: object) -> Callback:
    """Return a callback, or instantiate a callback class. Raises InputError for other values."""
    found = _instance(given, Callback, "callbacks")
    if not isinstance(found, Callback):
        accepted = "accepted: trainer.callbacks.callback.Callback objects"
        raise InputError(f"callbacks: found {_type_name(found)}; {accepted}")
    return found


def _instance(given: object, kind: type, where: str) -> Any:
    """Instantiate a subclass of `kind`; return other values unchanged."""
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


def _type_name(thing: object) -> str:
    return f"the class {thing.__name__}" if isinstance(thing, type) else type(thing).__name__
