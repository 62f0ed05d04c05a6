"""Saved recipe: a model's recipe, from its recipe.json or, without one, from its architecture."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer import hub
from trainer.config.nested_parts import with_source_options
from trainer.config.received import check_target
from trainer.config.target import RECIPE, build
from trainer.errors import InputError
from trainer.runs.run import Run, fitting_metrics
from trainer.tasks import recipe_file
from trainer.tasks.recipe import Recipe

if TYPE_CHECKING:
    from trainer.generation.prompts import PromptStyle

WITH_SAVED_RECIPE = ("evaluate", "predict", "merge", "serve")
"""Jobs that use the recipe with which the model was trained."""
OF_A_MODEL = (*WITH_SAVED_RECIPE, "export")
"""Jobs that read the recipe from the model's folder; for job=export it may be missing."""


def with_saved_recipe(run: Run) -> Run:
    """The run, with the recipe that its model was trained with; the user's options take precedence.

    Raises InputError if the model names no task.
    """
    if run.model.path is None:
        raise InputError("model.path: null; accepted: the path of a model")
    recipe = recipe_of(run.model.path, run.model.revision, run.recipe_fields, run.trusted_packages)
    metrics = fitting_metrics(run.metrics, recipe, run.chosen)
    dataset: Any = with_source_options(run.dataset, recipe)
    return replace(run, recipe=recipe, metrics=metrics, dataset=dataset)


def recipe_of(
    path: str,
    revision: str | None = None,
    given: Mapping[str, Any] | None = None,
    trusted_packages: Sequence[str] = (),
    places: Mapping[str, Any] | None = None,
) -> Recipe:
    """The recipe of a model's folder, hub id or pkg:// path; fields in `given` take precedence.

    `places` are further arguments of `hub.find`, such as token and cache_dir.
    """
    given = given or {}
    folder = hub.find(path, **{"revision": revision, **(places or {})}, what="model.path")
    saved = _saved_node(folder, given, trusted_packages)
    if "_target_" not in given:
        check_target(saved["_target_"], folder / recipe_file.FILE, "recipe", trusted_packages)
    chosen = given.get("_target_", saved["_target_"])
    node = {**saved, **given} if chosen == saved["_target_"] else given
    return build(node, "recipe", RECIPE, trusted_packages)


def _saved_node(
    folder: Path, given: Mapping[str, Any], trusted_packages: Sequence[str]
) -> dict[str, Any]:
    """The config node of the recipe that the folder names.

    If the folder names none, the node has the class in `given` and the fields that config.json
    implies. Raises InputError if neither names a recipe.
    """
    try:
        return recipe_file.read_node(folder)
    except recipe_file.NamesNoTask:
        if "_target_" not in given:
            raise
        kind = type(build(given, "recipe", RECIPE, trusted_packages))
        return {**recipe_file.implied_fields(kind, folder), "_target_": given["_target_"]}


def prompt_style(run: Run) -> "PromptStyle":
    """The style of prompts for the run's model, from the user's settings, else from its recipe."""
    from trainer.generation.prompts import style_as_trained

    assert run.model.path is not None
    folder = hub.find(run.model.path, revision=run.model.revision, what="model.path")
    trained = recipe_file.read_fields(folder)
    return style_as_trained(run.input.chat, run.input.system, trained)
