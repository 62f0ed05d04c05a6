"""Bodies of requests: a wrong one costs no more than a right one."""

import pytest
from pydantic import ValidationError

from trainer.serving.embedding_bodies import Predict, Rerank, Rows, Similarity
from trainer.serving.openai_bodies import Body, Chat, Completion, Embedding

MANY = [None] * 1000
BODIES = {
    Completion: {"model": "m", "prompt": MANY},
    Embedding: {"model": "m", "input": MANY},
    Chat: {"model": "m", "messages": MANY},
    Predict: {"inputs": MANY},
    Rerank: {"query": "a", "texts": MANY},
    Rows: {"rows": MANY},
    Similarity: {"inputs": {"source_sentence": "a", "sentences": MANY}},
}


@pytest.mark.parametrize("body", BODIES)
def test_only_the_first_wrong_element_of_a_list_is_reported(body: type[Body]) -> None:
    with pytest.raises(ValidationError) as refused:
        body.model_validate(BODIES[body])
    assert refused.value.error_count() <= 4  # one for each type of a union
