"""Sentence similarity: computes the cosine similarity of a sentence to other sentences."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from trainer.errors import InputError
from trainer.pipelines.of_recipe import Pipeline, listed_rows


class SentenceSimilarityPipeline(Pipeline):
    """`pipeline("sentence-similarity", model)(source_sentence=..., sentences=[...])`."""

    head: ClassVar[str] = "sentence_embedding"

    def __call__(
        self,
        inputs: Any = None,
        *,
        source_sentence: str | None = None,
        sentences: Sequence[str] | None = None,
    ) -> Any:
        """The cosine similarity of the source sentence to each of the other sentences.

        In place of the named arguments, `inputs` may be a mapping {"source_sentence": ...,
        "sentences": [...]}, or a list of such mappings, for which a list of results is returned.
        """
        import torch

        if inputs is None:
            inputs = {"source_sentence": source_sentence, "sentences": sentences}
        rows = listed_rows(inputs)
        texts = [text for row in rows for text in _texts(row)]
        (column,) = self.recipe.text_columns
        answers = self.answers([{column: text} for text in texts])
        vectors = torch.tensor([answer["embedding"] for answer in answers], dtype=torch.float64)
        parts = vectors.split([1 + len(row["sentences"]) for row in rows]) if rows else ()
        found = [torch.cosine_similarity(part[:1], part[1:]).tolist() for part in parts]
        return found[0] if isinstance(inputs, Mapping) else found


def _texts(row: object) -> list[str]:
    """The source sentence, followed by the other sentences."""
    source = row.get("source_sentence") if isinstance(row, Mapping) else None
    sentences = row.get("sentences") if isinstance(row, Mapping) else None
    if not isinstance(source, str) or not isinstance(sentences, (list, tuple)) or not sentences:
        accepted = "accepted: source_sentence= and sentences=, or mappings of both"
        raise InputError(f"pipeline: found no source with sentences; {accepted}")
    return [source, *sentences]
