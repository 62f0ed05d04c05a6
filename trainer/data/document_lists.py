"""Document lists: reads and checks the documents of each query, and their relevances."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.data import labels
from trainer.errors import AnswerError, RowError


@dataclass(frozen=True)
class DocumentColumns:
    """The columns of queries, documents and relevances, and their accepted values."""

    documents: str
    relevance: str
    negative: str
    score_range: Sequence[float]
    scaled: bool
    """Whether relevances are converted to numbers from 0 to 1"""
    least: int
    """The smallest number of documents in a list with relevances"""

    def read(
        self, rows: Mapping[str, Sequence[Any]]
    ) -> tuple[list[list[str]], list[list[float]] | None]:
        """The documents of each row, and their relevances (None if the rows have no relevances).

        If there is a column of negatives but none of relevances, negatives have the relevance 0,
        and the other documents 1. Raises RowError and AnswerError for invalid cells.
        """
        lists = [
            self._texts(cell, row, self.documents) for row, cell in enumerate(rows[self.documents])
        ]
        if self.relevance in rows:
            found = [self._relevances(cell, row, len(lists[row])) for row, cell in
                     enumerate(rows[self.relevance])]  # fmt: skip
        elif self.negative in rows:
            found = []
            for row, cell in enumerate(rows[self.negative]):
                negatives = self._texts(cell, row, self.negative, AnswerError)
                found.append([1.0] * len(lists[row]) + [0.0] * len(negatives))
                lists[row] += negatives
        else:
            return lists, None
        for row, texts in enumerate(lists):
            self._check_list(texts, row)
        return lists, found

    def _texts(
        self, cell: object, row: int, name: str, error: type[RowError] = RowError
    ) -> list[str]:
        found = [cell] if isinstance(cell, str) else cell
        if not isinstance(found, (list, tuple)) or not all(isinstance(x, str) for x in found):
            raise error(row, f"'{name}' is {cell!r:.60}; accepted: a text, or a list of texts")
        if not found:
            raise error(row, f"'{name}' is an empty list; accepted: one text or more")
        return list(found)

    def _relevances(self, cell: object, row: int, number: int) -> list[float]:
        cells = list(cell) if isinstance(cell, (list, tuple)) else [cell]
        where = f"'{self.relevance}'"
        if len(cells) != number:
            accepted = f"accepted: {number}, one for each of '{self.documents}'"
            raise AnswerError(row, f"{where} holds {len(cells)}; {accepted}")
        least, most = self.score_range
        found = []
        for value in cells:
            score = labels.as_number(value)
            if score is None or (self.scaled and not least <= score <= most):
                accepted = (
                    f"{least:g} to {most:g} (recipe.score_range)" if self.scaled else "numbers"
                )
                raise AnswerError(row, f"{where} is {value!r:.60}; accepted: {accepted}")
            found.append((score - least) / (most - least) if self.scaled else score)
        return found

    def _check_list(self, texts: Sequence[str], row: int) -> None:
        if len(texts) < self.least:
            accepted = "accepted: 2 or more, to be compared (or recipe.objective=pointwise)"
            raise AnswerError(row, f"'{self.documents}' is a list of {len(texts)}; {accepted}")
        if len(set(texts)) < len(texts):
            raise AnswerError(row, f"'{self.documents}' holds a text twice; accepted: each once")
