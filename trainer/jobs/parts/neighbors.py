"""Neighbors: exact search for the rows of a corpus whose vectors are closest to a query's."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

    from trainer.pipelines import Pipeline

VECTOR = "embedding"
"""The key of the vector in an answer, and the column of vectors in a corpus file."""
QUERIES_AT_A_TIME = 256
"""The number of queries that are compared with the corpus at once."""


@dataclass(frozen=True)
class Corpus:
    """C rows to search, and their vectors normalized to length 1."""

    rows: "Dataset"
    vectors: np.ndarray
    """The vectors of the rows [C, D]."""

    def nearest(
        self, answers: Sequence[Mapping[str, Any]], number: int
    ) -> Iterator[dict[str, list[dict[str, Any]]]]:
        """Yield, for each answer, the `number` nearest rows with their row numbers and cosines."""
        for start in range(0, len(answers), QUERIES_AT_A_TIME):
            some = answers[start : start + QUERIES_AT_A_TIME]
            queries = _unit(np.array([answer[VECTOR] for answer in some], dtype=np.float32))
            if queries.shape[1] != self.vectors.shape[1]:
                found = f"vectors of {self.vectors.shape[1]} numbers"
                raise InputError(f"input.corpus: {found}; accepted: {queries.shape[1]}")
            cosines = queries @ self.vectors.T
            for found_cosines in cosines:
                order = np.argsort(-found_cosines, kind="stable")[:number]
                yield {"neighbors": [self._row(int(row), found_cosines[row]) for row in order]}

    def _row(self, number: int, cosine: float) -> dict[str, Any]:
        row = {name: cell for name, cell in self.rows[number].items() if name != VECTOR}
        return {"row": number, "score": float(f"{cosine:.6g}"), **row}


def load_corpus(path: str, neighbors: int, pipeline: "Pipeline") -> Corpus:
    """The rows of a file, with vectors from the column `embedding` or computed by `pipeline`.

    Raises InputError if the file has neither vectors nor texts, or if `neighbors` is below 1.
    """
    from trainer.data.sources import read_files

    if neighbors < 1:
        raise InputError(f"input.neighbors: found {neighbors}; accepted: 1 or more")
    rows = read_files(path, "input.corpus")
    if len(rows) == 0:
        raise InputError(f"input.corpus: {path} holds no rows; accepted: one or more")
    if VECTOR in rows.column_names:
        return Corpus(rows, _unit(_stored(rows.with_format(None)[:][VECTOR], path)))
    (text,) = pipeline.recipe.text_columns
    if text not in rows.column_names:
        there = ", ".join(rows.column_names)
        raise InputError(f"input.corpus: no column '{text}' or '{VECTOR}'; there are: {there}")
    vectors = [answer[VECTOR] for answer in pipeline.answers(rows)]
    return Corpus(rows, _unit(np.array(vectors, dtype=np.float32)))


def _stored(cells: Sequence[Any], path: str) -> np.ndarray:
    found: np.ndarray | None
    try:
        found = np.array(cells, dtype=np.float32)
    except (TypeError, ValueError):
        found = None
    if found is None or found.ndim != 2 or not np.isfinite(found).all():
        accepted = "accepted: lists of numbers, all of one length"
        raise InputError(f"input.corpus: {path}: column '{VECTOR}' holds no vectors; {accepted}")
    return found


def _unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    found: np.ndarray = vectors / np.maximum(lengths, 1e-12)
    return found
