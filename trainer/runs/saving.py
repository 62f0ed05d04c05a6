"""Saving: writes and reads a model's folder with weights, tokenizer and recipe.json."""

from collections.abc import Collection, Mapping
from pathlib import Path

from torch import Tensor, nn

from trainer.checkpoint import files
from trainer.generation.stop_tokens import set_eos_token_ids
from trainer.interop.self_saving import (
    is_of_peft,
    is_of_transformers,
    read_self_saving,
    saves_itself,
    write_self_saving,
)
from trainer.models.adapters.adapter_files import saved_names
from trainer.models.configured import WEIGHTS, ConfiguredModel, load_weights
from trainer.models.model import Model
from trainer.tasks.processor import Processor
from trainer.tasks.recipe import Recipe
from trainer.tasks.recipe_file import write_recipe
from trainer.tokenizer import Tokenizer


def write_model(
    directory: Path,
    model: nn.Module,
    tokenizer: Processor | None,
    recipe: Recipe,
    weights: Mapping[str, Tensor] | None = None,
    shipped: bool = False,
) -> None:
    """Write recipe.json and the files that `from_pretrained` reads, here and in other packages.

    `weights` are written instead of the model's own: a sharded model has only a part of them. A
    plain module has no config: its folder holds only model.safetensors. A model of transformers or
    PEFT saves itself. For a model with adapters only the adapters are written, unless the model is
    `shipped` (the result of training) and its adapters are to be merged.
    """
    files.make_folder(directory)
    if isinstance(model, Model):
        if model.task == "causal_lm" and isinstance(tokenizer, Tokenizer):
            set_eos_token_ids(model, tokenizer)
        merge = written_parameters(model, shipped) is None
        model.save_pretrained(directory, merge=merge, state_dict=weights)
    elif isinstance(model, ConfiguredModel):
        model.save_pretrained(directory, state_dict=weights)
    elif saves_itself(model):
        write_self_saving(directory, model)
    else:
        files.write_tensors(directory / WEIGHTS, model.state_dict())
    if is_of_transformers(tokenizer):
        write_self_saving(directory, tokenizer)
    elif tokenizer is not None:
        tokenizer.save_pretrained(directory)
    write_recipe(directory, recipe)
    recipe.write_files(directory, model)
    if shipped:
        recipe.write_parts(directory, model, tokenizer, weights)


def written_parameters(model: nn.Module, shipped: bool = False) -> Collection[str] | None:
    """The parameters that `write_model` writes if it writes only adapters.

    None if it writes all.
    """
    if is_of_peft(model):
        return {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not isinstance(model, Model) or model.lora is None or (shipped and model.lora.merge):
        return None
    return saved_names(model)


def shipped_parameters(model: nn.Module, recipe: Recipe) -> Collection[str] | None:
    """The parameters that `write_model` needs for the result of training; None if it needs all.

    The parts that a recipe writes next to adapters are whole models.
    """
    return None if recipe.writes_parts else written_parameters(model, shipped=True)


def read_weights(directory: Path, model: nn.Module) -> None:
    """Load a folder's weights, unchanged, into a model whose tensors have the same shapes."""
    if isinstance(model, (Model, ConfiguredModel)):
        model.load_weights(directory)
        return
    if saves_itself(model):
        read_self_saving(directory, model)
        return
    load_weights(directory / WEIGHTS, model)
