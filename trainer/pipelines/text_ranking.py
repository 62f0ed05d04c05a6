"""Text ranking: sorts documents by how well they answer a query."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from trainer.errors import InputError
from trainer.foreign.counts import checked_count
from trainer.pipelines.of_recipe import Pipeline, listed_rows


class TextRankingPipeline(Pipeline):
    """`pipeline("text-ranking", model)(query=..., documents=[...])`."""

    head: ClassVar[str] = "sequence_classification"

    def __call__(
        self,
        inputs: Any = None,
        *,
        query: str | None = None,
        documents: Sequence[str] | None = None,
        top_k: int | None = None,
        return_documents: bool = False,
    ) -> Any:
        """Rank documents like CrossEncoder.rank: `[{"corpus_id", "score"}]` with the best first.

        In place of the named arguments, `inputs` may be a mapping {"query": ..., "documents":
        [...]}, or a list of such mappings, for which a list of rankings is returned.
        `return_documents` adds each document as "text".
        """
        if top_k is not None:
            top_k = checked_count("pipeline: top_k", top_k, 0)
        if inputs is None:
            inputs = {"query": query, "documents": documents}
        rows = listed_rows(inputs)
        names = self.recipe.text_columns
        pairs = [dict(zip(names, pair, strict=True)) for row in rows for pair in _pairs(row)]
        scores = iter([answer["score"] for answer in self.answers(pairs)])
        found = []
        for row in rows:
            ranked: list[dict[str, Any]] = [
                {"corpus_id": number, "score": next(scores)}
                | ({"text": text} if return_documents else {})
                for number, text in enumerate(row["documents"])
            ]
            found.append(sorted(ranked, key=lambda answer: -answer["score"])[:top_k])
        return found[0] if isinstance(inputs, Mapping) else found


def _pairs(row: object) -> list[tuple[str, str]]:
    """Pairs of the query with each of its documents."""
    query = row.get("query") if isinstance(row, Mapping) else None
    documents = row.get("documents") if isinstance(row, Mapping) else None
    if not isinstance(query, str) or not isinstance(documents, (list, tuple)) or not documents:
        accepted = "accepted: query= and documents=, or mappings of both"
        raise InputError(f"pipeline: found no query with documents; {accepted}")
    return [(query, text) for text in documents]
