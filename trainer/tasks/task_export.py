"""Task export: writes an ordinary model of each task, which other tools can load."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.models.heads.multi_task import MultiTaskModel
from trainer.tasks.recipe_file import write_recipe

if TYPE_CHECKING:
    from torch import Tensor, nn

    from trainer.tasks.processor import Processor
    from trainer.tasks.recipe import Recipe


def write_tasks(
    folder: Path,
    recipes: "Mapping[str, Recipe]",
    model: "nn.Module",
    tokenizer: "Processor | None",
    weights: "Mapping[str, Tensor] | None" = None,
) -> None:
    """Write folder/<task> for each task: the body with its head, the tokenizer and recipe.json.

    Adapters are merged. `weights`, by parameter name, are used instead of the model's own weights.
    """
    assert isinstance(model, MultiTaskModel)
    for name, recipe in recipes.items():
        part = model.part(name)
        state = None if weights is None else model.part_weights(name, weights)
        part.save_pretrained(folder / name, merge=True, state_dict=state)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder / name)
        write_recipe(folder / name, recipe)
        recipe.write_files(folder / name, part)
