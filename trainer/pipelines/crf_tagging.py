"""CRF tagging: finds entities with a conditional random field, which predicts all tags jointly."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from trainer.errors import InputError
from trainer.pipelines.of_recipe import Pipeline


class CRFTaggingPipeline(Pipeline):
    """`pipeline("token-classification", model)("Ada lives in Paris")` for a model with a CRF."""

    head: ClassVar[str] = "token_classification_crf"

    def __call__(self, inputs: object, *, aggregation_strategy: object = None) -> list[Any]:
        """Find the entities of a text, or of each text in a list.

        An entity is `{"entity_group", "score", "word", "start", "end"}`. There is no output for
        single tokens, since a CRF predicts one tag for each word, so `aggregation_strategy` has no
        effect. If the tags do not mark entities (such as parts of speech), each word gives an
        `{"entity", "word"}`. Raises InputError for other inputs.
        """
        texts = [inputs] if isinstance(inputs, str) else inputs
        if not isinstance(texts, Sequence) or not all(isinstance(each, str) for each in texts):
            raise InputError(
                f"pipeline: found {inputs!r:.60}; accepted: a text, or a list of texts"
            )
        column = self.recipe.text_columns[0]
        found = [_entities(each) for each in self.answers([{column: text} for text in texts])]
        return found[0] if isinstance(inputs, str) else found


def _entities(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The entities of an answer, in transformers' format."""
    if "entities" not in answer:
        pairs = zip(answer["tags"], answer["words"], strict=True)
        return [{"entity": tag, "word": word} for tag, word in pairs]
    return [
        {"entity_group": each["label"], "score": each["score"], "word": each["text"]}
        | {"start": each["start"], "end": each["end"]}
        for each in answer["entities"]
    ]
