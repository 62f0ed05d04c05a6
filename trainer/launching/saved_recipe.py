"""The recipe that a model's folder names: recipe.json, or for a foreign model its architecture."""

import importlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer import hub
from trainer.errors import InputError
from trainer.foreign_json import parse_json
from trainer.launching.received import check_target
from trainer.launching.target import OWN_PACKAGES, RECIPE, build
from trainer.recipe import Recipe
from trainer.run import Run, fitting_metrics

if TYPE_CHECKING:
    from trainer.generation.asking import Manner

FILE = "recipe.json"
ARCHITECTURE = re.compile(r"For([A-Z]\w+)$")
"""The task in a hub's class name: BertForSequenceClassification."""


def with_saved_recipe(run: Run) -> Run:
    """The run with the recipe that its model was trained with; what the user gave of it wins.

    Raises InputError where the model names no task.
    """
    if run.model.path is None:
        raise InputError("model.path: null; accepted: the path of a model")
    recipe = recipe_of(run.model.path, run.model.revision, run.recipe_fields, run.trusted_packages)
    metrics = fitting_metrics(run.metrics, recipe, run.chosen)
    return replace(run, recipe=recipe, metrics=metrics)


def recipe_of(
    path: str,
    revision: str | None = None,
    given: Mapping[str, Any] | None = None,
    trusted_packages: Sequence[str] = (),
) -> Recipe:
    """The recipe of a model's folder, hub id or pkg:// path, with the fields `given` replaced."""
    given = given or {}
    folder = hub.find(path, revision=revision, what="model.path")
    saved = _saved(folder)
    if "_target_" not in given:
        check_target(saved["_target_"], folder / FILE, "recipe", trusted_packages)
    chosen = given.get("_target_", saved["_target_"])
    node = {**saved, **given} if chosen == saved["_target_"] else given
    return build(node, "recipe", RECIPE, trusted_packages)


def manner_of_asking(run: Run) -> "Manner":
    """How to ask the run's model: as the user says, else as the recipe in its folder does."""
    from trainer.generation.asking import as_trained

    assert run.model.path is not None
    folder = hub.find(run.model.path, revision=run.model.revision, what="model.path")
    file = folder / FILE
    trained = _name_and_fields(file)[1] if folder.is_dir() and file.is_file() else {}
    return as_trained(run.input.chat, run.input.system, trained)


def _saved(folder: Path) -> dict[str, Any]:
    """The config node of a folder's recipe; what it holds is checked like what a user types."""
    file = folder / FILE
    if folder.is_file() or not file.is_file():
        return _of_architecture(folder)
    name, fields = _name_and_fields(file)
    return {**fields, "_target_": name if "." in name else _target(name, file)}


def _name_and_fields(file: Path) -> tuple[str, dict[str, Any]]:
    found = _read(file)
    name, fields = found.get("recipe"), found.get("fields")
    if not isinstance(name, str) or not isinstance(fields, dict):
        raise InputError(f'{file}: found no recipe; accepted: {{"recipe": name, "fields": {{}}}}')
    return name, fields


def _of_architecture(folder: Path) -> dict[str, Any]:
    file = folder / "model_config.json"  # of an adapter
    if (folder / "adapter_config.json").is_file() and not file.is_file():
        from trainer.models.adapter_files import model_home

        folder = model_home(folder)
    file = file if file.is_file() else folder / "config.json"
    config = _read_gguf(folder) if folder.is_file() else _read(file)
    names = config.get("architectures")
    first = str(names[0]) if isinstance(names, list) and names else "no architectures"
    task = ARCHITECTURE.search(first.replace("LMHeadModel", "ForCausalLM"))  # GPT-2's old name
    if task is None:
        raise InputError(f"recipe: {folder} names no task ({first}); accepted: recipe=...")
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", task[1]).lower()  # CausalLM: causal_lm
    target = _target(name, file)
    module, _, cls = target.rpartition(".")
    fields = getattr(importlib.import_module(module), cls).fields_of_config(config)
    return {**fields, "_target_": target}


def _target(name: str, file: Path) -> str:
    """The recipe in the file of a short name, which has the same letters."""
    home = OWN_PACKAGES[1]
    known = sorted(
        path.stem
        for path in Path(importlib.import_module(home).__path__[0]).glob("*.py")
        if path.stem != "__init__"
    )
    if name not in known:
        raise InputError(f"{file}: no recipe '{name}'; accepted: {', '.join(known)}")
    classes = vars(importlib.import_module(f"{home}.{name}"))
    letters = name.replace("_", "")
    return f"{home}.{name}.{next(each for each in classes if each.lower() == letters)}"


def _read_gguf(file: Path) -> dict[str, Any]:
    from trainer.interop.gguf_config import read_config

    return read_config(file)


def _read(file: Path) -> dict[str, Any]:
    try:
        value = parse_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{file}: there is no such file; accepted: a model's folder") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: not readable as JSON ({error})") from None
    if not isinstance(value, dict):
        raise InputError(f"{file}: not a JSON object")
    return value
