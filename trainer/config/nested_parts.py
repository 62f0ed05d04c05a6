"""Nested parts: the recipes inside a recipe, and the data sets inside a mixture."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from trainer.config.groups import options
from trainer.config.option_files import option_values
from trainer.config.typed import convert, plain
from trainer.data.mixed_rows import source_key
from trainer.data.mixture import Mixture
from trainer.tasks.recipe import Recipe
from trainer.tasks.source_recipes import own_recipe


def nested_nodes(node: Mapping[str, Any], part: object) -> dict[str, Any]:
    """The config nodes of the recipes or data sets inside `part`, which was built from `node`."""
    found: dict[str, Any] = {}
    for key in getattr(part, "holds_recipes", ()):
        recipes = getattr(part, key)
        nodes = {n: {"recipe": node[key][n]["recipe"], **plain(r)} for n, r in recipes.items()}
        found[key] = nodes
    if (key := getattr(part, "holds_sources", None)) is not None:
        found[key] = {
            name: {
                **plain(source),
                "dataset": _with_target(source.dataset),
                "recipe": _with_target(source.recipe),
            }
            for name, source in getattr(part, key).items()
        }
    return found


def with_source_options(dataset: object, recipe: Recipe | None) -> object:
    """The data set; for a mixture, with the recipe options of its sources checked and converted.

    If `recipe` is None, because the model's folder defines it later, nothing is changed.
    """
    if not isinstance(dataset, Mixture) or recipe is None:
        return dataset
    sources = {}
    for name, source in dataset.mixture.items():
        own = source.recipe
        if isinstance(own, Mapping):
            hints, where = get_type_hints(type(recipe)), f"{source_key(name)}.recipe"
            own = {
                key: convert(value, hints[key], f"{where}.{key}") if key in hints else value
                for key, value in own.items()
            }
        own_recipe(recipe, own, name)
        sources[name] = replace(source, recipe=own)
    return replace(dataset, mixture=sources)


def expand_sources(config: DictConfig | ListConfig, folders: list[Path]) -> None:
    """Replace each data set of a mixture that is a name, a path or a mapping by a config node.

    A mapping without `_target_` has the keys of dataset=files.
    """
    mixture = OmegaConf.select(config, "dataset.mixture")
    if not isinstance(mixture, DictConfig):
        return
    entries: Any = OmegaConf.to_container(mixture, resolve=False)
    for name, entry in entries.items():
        if isinstance(entry, dict) and isinstance(entry.get("dataset"), (str, dict)):
            with open_dict(mixture):  # a name may be a number
                mixture[name]["dataset"] = _source_node(entry["dataset"], folders)


def _source_node(given: str | dict[Any, Any], folders: list[Path]) -> dict[Any, Any]:
    if isinstance(given, str) and given in options("dataset", folders):
        return option_values("dataset", given, folders)
    given = {"path": given} if isinstance(given, str) else given
    if given.get("_target_") is not None:
        return given
    return {**option_values("dataset", "files", folders), **given}


def _with_target(part: object) -> dict[str, Any]:
    """The config node of a part; a mapping of plain values is copied."""
    if isinstance(part, Mapping):
        return dict(plain(part))
    return {"_target_": f"{type(part).__module__}.{type(part).__qualname__}", **plain(part)}
