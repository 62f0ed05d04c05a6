"""The example request: a curl command that works for the served model."""

import json
import shlex
from collections.abc import Collection

from trainer.tasks.recipe import EXAMPLE_TEXT, Recipe


def curl_line(url: str, paths: Collection[str], name: str, recipe: Recipe, key: str | None) -> str:
    """A command that sends a request to the server at `url`, whose routes are `paths`.

    `name` is the model's name, and `key` the name of the environment variable with the API key, if
    the server needs one.
    """
    path, body = example_request(paths, name, recipe)
    headers = ['-H "content-type: application/json"']
    if key is not None:
        headers.append(f'-H "authorization: Bearer ${key}"')
    return " ".join(["curl", f"{url}{path}", *headers, "-d", shlex.quote(json.dumps(body))])


def example_request(
    paths: Collection[str], name: str, recipe: Recipe
) -> tuple[str, dict[str, object]]:
    """The path and the body of a request for the model's task."""
    if "/v1/completions" in paths:
        return "/v1/completions", {"model": name, "prompt": "Once upon a time", "max_tokens": 16}
    if "/embed" in paths:
        return "/embed", {"inputs": EXAMPLE_TEXT}
    if "/rerank" in paths:
        return "/rerank", {"query": "What is good?", "texts": [EXAMPLE_TEXT, "It broke."]}
    if "/predict" in paths and len(recipe.text_columns) == 1:
        return "/predict", {"inputs": EXAMPLE_TEXT}
    return "/answers", {"rows": [recipe.example_row]}
