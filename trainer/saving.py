"""A model's folder: weights, tokenizer and recipe.json, written and read back."""

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from trainer.checkpoint import files
from trainer.checkpoint.state_checks import check_weights
from trainer.errors import InputError
from trainer.generation.ends import tell_ends
from trainer.models.adapter_files import saved_names
from trainer.models.loading import overwrite_weights
from trainer.models.pretrained import PretrainedModel
from trainer.recipe import LossOnly, Recipe
from trainer.redaction import without_environment

RECIPE = "recipe.json"
WEIGHTS = "model.safetensors"


def write_model(
    directory: Path,
    model: nn.Module,
    tokenizer: Any,
    recipe: Recipe,
    weights: Mapping[str, Tensor] | None = None,
    shipped: bool = False,
) -> None:
    """Write what `from_pretrained` reads, in this package and elsewhere, and the recipe's name.

    `weights` replace the model's own, which lacks them where it is sharded. A plain module has no
    config: its folder holds model.safetensors alone. A model with adapters writes those, unless it
    is `shipped` and they are to be merged.
    """
    files.make_folder(directory)
    if isinstance(model, PretrainedModel):
        if model.task == "causal_lm" and tokenizer is not None:
            tell_ends(model, tokenizer)
        merge = written_parameters(model, shipped) is None
        model.save_pretrained(directory, merge=merge, state_dict=weights)
    else:
        files.write_tensors(directory / WEIGHTS, model.state_dict())
    if tokenizer is not None:
        tokenizer.save_pretrained(directory)
    if not isinstance(recipe, LossOnly):
        files.write_json(directory / RECIPE, recipe_to_json(recipe))


def written_parameters(model: nn.Module, shipped: bool = False) -> Collection[str] | None:
    """The parameters that `write_model` writes where it writes adapters alone; None: all."""
    lora = model.lora if isinstance(model, PretrainedModel) else None
    if lora is None or (shipped and lora.merge):
        return None
    assert isinstance(model, PretrainedModel)
    return saved_names(model)


def read_weights(directory: Path, model: nn.Module) -> None:
    """Load a folder's weights into a model of the same shape, bit for bit."""
    if isinstance(model, PretrainedModel):
        overwrite_weights(model, directory)
        return
    path = directory / WEIGHTS
    try:
        with safe_open(path, "pt") as saved:
            state = {name: saved.get_tensor(name) for name in saved.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: is truncated or no safetensors file ({error})") from None
    check_weights(path, state, model.state_dict())
    with torch.no_grad():
        model.load_state_dict(state, strict=True)


def recipe_to_json(recipe: Recipe) -> dict[str, Any]:
    """A recipe as recipe.json holds it: its short name, or where it lives, and its fields."""
    module, name = type(recipe).__module__, type(recipe).__qualname__
    short = module.removeprefix("recipes.") if module.startswith("recipes.") else None
    fields: Mapping[str, Any] = dataclasses.asdict(recipe)  # type: ignore[call-overload]
    named = {"recipe": short or f"{module}.{name}", "fields": dict(fields)}
    return without_environment(named)
