"""recipe.json: saves and loads the recipe that a model was trained with."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer import registry
from trainer.checkpoint import files
from trainer.errors import InputError
from trainer.foreign.json_values import parse_json
from trainer.interop.sentence_transformers import (
    MODULES,
    cross_encoder_activation,
    is_embedding_folder,
    read_modules,
)
from trainer.redaction import without_environment
from trainer.tasks.plain_recipes import PlainRecipe
from trainer.tasks.recipe import Recipe

FILE = "recipe.json"
ARCHITECTURE = re.compile(r"For([A-Z]\w+)$")
"""Finds the task in a class name of transformers, such as BertForSequenceClassification."""

OTHER_NAMES = {"conditional_generation": "seq2seq", "seq2seq_lm": "seq2seq"}
"""The task in a class name -> the recipe, if their names differ."""


class NamesNoTask(InputError):
    """Raised for a model's folder that does not name its task."""


def write_recipe(folder: Path, recipe: Recipe) -> None:
    """Write recipe.json into a model's folder; a plain recipe has none."""
    if not isinstance(recipe, PlainRecipe):
        files.write_json(folder / FILE, recipe_to_json(recipe))


def recipe_to_json(recipe: Recipe) -> dict[str, Any]:
    """The content of recipe.json: the recipe's short name or dotted path, and its fields."""
    module, name = type(recipe).__module__, type(recipe).__qualname__
    short = module.removeprefix("recipes.") if module.startswith("recipes.") else None
    options = dataclasses.fields(recipe)  # type: ignore[arg-type]
    own_fields = {option.name: _plain(getattr(recipe, option.name)) for option in options}
    return without_environment({"recipe": short or f"{module}.{name}", "fields": own_fields})


def _plain(value: Any) -> Any:
    """A field's value as JSON; a nested recipe is written as in a config."""
    if isinstance(value, Recipe):
        found = recipe_to_json(value)
        return {"recipe": found["recipe"], **found["fields"]}
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    is_record = dataclasses.is_dataclass(value) and not isinstance(value, type)
    return dataclasses.asdict(value) if is_record else value


def read_node(folder: Path) -> dict[str, Any]:
    """The recipe of a model's folder or .gguf file, as a config node (`_target_` and its fields).

    Models from elsewhere have no recipe.json; for them, `architectures` in config.json gives the
    task. Only recipes of this package are imported, and nothing is instantiated: callers must check
    the values like other user input. Raises InputError if the folder names no task.
    """
    file = folder / FILE
    if folder.is_file() or not file.is_file():
        return _of_modules(folder) if is_embedding_folder(folder) else _of_architecture(folder)
    name, fields = _name_and_fields(file)
    return {**fields, "_target_": name if "." in name else _target(_registered(name, file))}


def read_fields(folder: Path) -> dict[str, Any]:
    """The recipe's fields from a model's folder; empty without a recipe.json."""
    file = folder / FILE
    return _name_and_fields(file)[1] if folder.is_dir() and file.is_file() else {}


def _registered(name: str, file: Path) -> type[Recipe]:
    """The recipe with the short name in a file. Raises InputError for an unknown name."""
    found: type[Recipe] = registry.find(registry.RECIPES, name, f"{file}: recipe")
    return found


def _name_and_fields(file: Path) -> tuple[str, dict[str, Any]]:
    found = _read(file)
    name, fields = found.get("recipe"), found.get("fields")
    if not isinstance(name, str) or not isinstance(fields, dict):
        raise InputError(f'{file}: found no recipe; accepted: {{"recipe": name, "fields": {{}}}}')
    return name, fields


def _of_modules(folder: Path) -> dict[str, Any]:
    """The recipe of a folder that sentence-transformers wrote."""
    recipe = _registered("sentence_embedding", folder / MODULES)
    return {**read_modules(folder), "_target_": _target(recipe)}


def implied_fields(recipe: type[Recipe], folder: Path) -> dict[str, Any]:
    """The recipe's fields that config.json implies, such as labels."""
    return recipe.fields_of_config(_config_of(folder)[0])


def _config_of(folder: Path) -> tuple[Mapping[str, Any], Path]:
    """The config of a folder, of an adapter's base or of a .gguf file, and the file that has it."""
    file = folder / "model_config.json"  # of an adapter
    if (folder / "adapter_config.json").is_file() and not file.is_file():
        from trainer.models.adapters.adapter_files import model_home

        folder = model_home(folder)
    file = file if file.is_file() else folder / "config.json"
    return (_read_gguf(folder) if folder.is_file() else _read(file)), file


def _of_architecture(folder: Path) -> dict[str, Any]:
    config, file = _config_of(folder)
    names = config.get("architectures")
    first = str(names[0]) if isinstance(names, list) and names else "no architectures"
    task = ARCHITECTURE.search(first.replace("LMHeadModel", "ForCausalLM"))  # GPT-2's old name
    if task is None:
        raise NamesNoTask(f"recipe: {folder} names no task ({first}); accepted: recipe=...")
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", task[1]).lower()  # CausalLM: causal_lm
    name = OTHER_NAMES.get(name, name)
    if name == "sequence_classification" and folder.is_dir():
        activation = cross_encoder_activation(folder, config)
        if activation is not None:
            recipe = _registered("reranking", file)
            return {"activation": activation, "_target_": _target(recipe)}
    try:
        recipe = _registered(name, file)
    except InputError as error:
        raise NamesNoTask(str(error)) from error
    return {**recipe.fields_of_config(config), "_target_": _target(recipe)}


def _target(recipe: type[Recipe]) -> str:
    return f"{recipe.__module__}.{recipe.__qualname__}"


def _read_gguf(file: Path) -> dict[str, Any]:
    from trainer.interop.gguf_config import read_config

    return read_config(file)


def _read(file: Path) -> dict[str, Any]:
    try:
        value = parse_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        inside = file.parent / "model"
        hint = f"; did you mean {inside}?" if (inside / file.name).is_file() else ""
        found = f"{file}: there is no such file; accepted: a model's folder{hint}"
        raise InputError(found) from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: not readable as JSON ({error})") from None
    if not isinstance(value, dict):
        raise InputError(f"{file}: not a JSON object")
    return value
