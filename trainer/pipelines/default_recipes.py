"""Default recipes: the recipes of model objects, which have no folder with a recipe.json."""

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
"""Pipeline -> its recipe, for pipelines whose answers depend only on the recipe's columns.

The answers of other pipelines also depend on prompts, the activation of scores, or tasks.
"""


def default_recipe(kind: type[Pipeline] | type[TextPipeline], model: object) -> Recipe | None:
    """The recipe with its defaults for a model object; None if the pipeline has no such recipe."""
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
