"""Default recipes: the recipe of a loaded model, which has no folder with a recipe.json."""

from typing import Any

from trainer import registry
from trainer.pipelines.crf_tagging import CRFTaggingPipeline
from trainer.pipelines.multiple_choice import MultipleChoicePipeline
from trainer.pipelines.of_recipe import Pipeline
from trainer.pipelines.question_answering import QuestionAnsweringPipeline
from trainer.pipelines.text_pipeline import TextPipeline
from trainer.pipelines.token_classification import TokenClassificationPipeline
from trainer.tasks.recipe import Recipe

RECIPES: dict[object, str] = {
    QuestionAnsweringPipeline: "question_answering",
    MultipleChoicePipeline: "multiple_choice",
}
"""Pipeline -> its recipe, if answers depend on none of the recipe's settings but the columns.

Those of the other pipelines depend on settings: prompts, the activation of scores, and tasks.
"""


def default_recipe(kind: type[Pipeline] | type[TextPipeline], model: object) -> Recipe | None:
    """The recipe with its defaults for a loaded model; None if there is none for the pipeline."""
    if kind in RECIPES and getattr(model, "task", None) is not None:
        return _recipe_class(RECIPES[kind])()
    crf = getattr(model, "task", None) == CRFTaggingPipeline.head
    if kind is TokenClassificationPipeline and crf:
        config: Any = getattr(model, "config", None)
        recipe = _recipe_class("token_classification")
        options: dict[str, Any] = {"text": "text", **recipe.fields_of_config(config.to_dict())}
        return recipe(crf=True, **options)  # type: ignore[call-arg]
    return None


def _recipe_class(name: str) -> type[Recipe]:
    found: type[Recipe] = registry.find(registry.RECIPES, name, "pipeline")
    return found
