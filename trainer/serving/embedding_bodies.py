"""The request bodies of text-embeddings-inference's API, and of the route /answers."""

from typing import Annotated, Any, Literal

from pydantic import Field

from trainer.serving.openai_bodies import Body, Count, Strings

Texts = str | Strings
Pairs = str | Strings | Annotated[list[Strings], Field(fail_fast=True)]


class Truncation(Body):
    """The options for texts that are too long."""

    truncate: bool | None = None
    """false: texts that are too long are refused; true or null: they are cut, as in job=predict."""
    truncation_direction: Literal["right", "Right"] = "right"


class Embed(Truncation):
    """The body of /embed."""

    inputs: Texts
    normalize: bool = True
    prompt_name: str | None = None
    dimensions: Count | None = None


class Sentences(Body):
    """A sentence, and the other sentences to which it is compared."""

    source_sentence: str
    sentences: Strings


class SimilarityParameters(Truncation):
    """The options of /similarity."""

    prompt_name: str | None = None


class Similarity(Body):
    """The body of /similarity."""

    inputs: Sentences
    parameters: SimilarityParameters | None = None


class Rerank(Truncation):
    """The body of /rerank."""

    query: str
    texts: Annotated[list[str], Field(min_length=1, fail_fast=True)]
    raw_scores: bool = False
    return_text: bool = False


class Predict(Truncation):
    """The body of /predict.

    The input is a text, a list with one text or a pair of texts, or a list of such lists.
    """

    inputs: Pairs
    raw_scores: bool = False


class Rows(Body):
    """The body of /answers."""

    rows: Annotated[list[dict[str, Any]], Field(min_length=1, fail_fast=True)]
