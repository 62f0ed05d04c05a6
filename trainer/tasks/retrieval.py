"""Retrieval: ranks the texts of an evaluation for each query, by cosine similarity.

Dimensions: N samples, vectors of D numbers.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from trainer.tasks.comparison import Comparison

if TYPE_CHECKING:
    from trainer.tasks.columns import Column, Columns


class Rows(Sequence[np.ndarray]):
    """A list of arrays, computed on access, since a matrix of all scores may not fit in memory."""

    def __init__(self, number: int, make: Callable[[int], np.ndarray]) -> None:
        self._number, self._make = number, make

    def __len__(self) -> int:
        return self._number

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, index: slice) -> list[np.ndarray]: ...

    def __getitem__(self, index: int | slice) -> np.ndarray | list[np.ndarray]:
        found = range(self._number)[index]
        if isinstance(found, range):
            return [self._make(number) for number in found]
        made: np.ndarray = self._make(found)
        return made


def retrieval(embeddings: "Column", texts: "Column") -> Comparison | None:
    """The ranking of a corpus for each query; None if samples have no positives.

    A sample's sequences are an anchor, its positive, and negatives. The queries are the distinct
    anchors, and the corpus consists of all other distinct texts. The positives of all samples whose
    anchor equals the query are relevant to it. `texts` holds text ids, equal for equal texts. A
    corpus text that equals the query but is not relevant to it is ranked last.
    """
    offsets = embeddings.offsets
    assert offsets is not None
    if len(embeddings) == 0 or np.diff(offsets).min() < 2:
        return None
    anchors = offsets[:-1]
    others = np.ones(len(texts.values), dtype=bool)
    others[anchors] = False
    corpus_texts, first = np.unique(texts.values[others], return_index=True)
    corpus = _unit(embeddings.values[others][first])
    query_texts, first, query = np.unique(
        texts.values[anchors], return_index=True, return_inverse=True
    )
    queries = _unit(embeddings.values[anchors][first])
    positives = np.searchsorted(corpus_texts, texts.values[anchors + 1])
    order = np.argsort(query, kind="stable")
    ends = np.cumsum(np.bincount(query))
    relevant = np.split(positives[order], ends[:-1])

    def scores(number: int) -> np.ndarray:
        found = corpus @ queries[number]
        is_query = corpus_texts == query_texts[number]
        is_query[relevant[number]] = False
        return np.where(is_query, -np.inf, found)

    def relevances(number: int) -> np.ndarray:
        found = np.zeros(len(corpus))
        found[relevant[number]] = 1.0
        return found

    return Comparison("rankings", Rows(len(queries), scores), Rows(len(queries), relevances))


def by_query(queries: np.ndarray, scores: np.ndarray, relevances: np.ndarray) -> Comparison:
    """The ranking of each query's documents.

    The arguments have an entry for each of S documents; `queries` holds ids, equal for equal
    queries.
    """
    _, query = np.unique(queries, return_inverse=True)
    order = np.argsort(query, kind="stable")
    ends = np.cumsum(np.bincount(query))[:-1]
    found, wanted = (np.split(values[order], ends) for values in (scores, relevances))
    return Comparison("rankings", found, wanted)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """[N, D], normalized to length 1."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    found: np.ndarray = vectors / np.maximum(lengths, 1e-12)
    return found


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    """The cosine of two vectors [D]."""
    pair = _unit(np.stack([first, second]).astype(np.float64))
    return float(pair[0] @ pair[1])


def plain(vector: np.ndarray) -> list[float]:
    """A vector [D] as numbers with nine digits, which represent fp32 exactly."""
    return [float(f"{number:.9g}") for number in vector]


def embedding_answers(columns: "Columns") -> list[dict[str, Any]]:
    """Answers with a text's vector, or two texts' similarity and the reference if known."""
    found: list[dict[str, Any]] = [
        {"embedding": plain(vectors[0])}
        if len(vectors) == 1
        else {"similarity": cosine(vectors[0], vectors[1])}
        for vectors in columns["embeddings"]
    ]
    if "references" in columns:
        for answer, score in zip(found, columns["references"].tolist(), strict=True):
            answer["reference"] = score
    return found


def document_scores(columns: "Columns") -> list[dict[str, Any]]:
    """Answers with the scores of a sample's documents, and the references if known."""
    names = {"scores": "score", "references": "reference"}
    found: list[dict[str, Any]] = [{} for _ in range(len(columns["scores"]))]
    for name in (each for each in names if each in columns):
        for answer, values in zip(found, columns[name], strict=True):
            numbers = plain(values)
            alone = len(numbers) == 1
            answer[names[name] if alone else name] = numbers[0] if alone else numbers
    return found


def similarities(embeddings: "Column") -> np.ndarray:
    """[N], the cosine of the first two sequences of each sample, in float64."""
    assert embeddings.offsets is not None
    first = embeddings.offsets[:-1]
    vectors = _unit(embeddings.values.astype(np.float64))
    found: np.ndarray = (vectors[first] * vectors[first + 1]).sum(-1)
    return found
