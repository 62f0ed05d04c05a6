"""Foreign recipe: the recipe for a model from another tool, whose folder names no columns."""

from collections.abc import Collection

from trainer import hub
from trainer.jobs.parts.model_config import model_path
from trainer.runs.run import Run
from trainer.tasks.recipe import Recipe
from trainer.tasks.recipe_file import read_fields


def recipe_for(run: Run, columns: Collection[str]) -> Recipe:
    """The run's recipe for rows with these columns.

    If the model's folder has a recipe.json, the columns are those that the model was trained on.
    Otherwise the model reads text pairs if the rows have a column with second texts.
    """
    assert run.recipe is not None
    folder = hub.find(model_path(run.model), revision=run.model.revision, what="model.path")
    return run.recipe if read_fields(folder) else run.recipe.for_columns(columns)
