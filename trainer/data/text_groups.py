"""Text groups: reads and checks rows of an anchor, a positive, hard negatives and a score."""

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer.data import labels
from trainer.data.rows import label_column, text_column
from trainer.errors import AnswerError, InputError

if TYPE_CHECKING:
    from datasets import Dataset

ROLES = ("anchor", "positive", "negative")
"""The roles of a sample's texts, in order."""
EARLIER = "earlier_row_with_these_texts"
"""The column that `with_repeats` adds."""


@dataclass(frozen=True)
class TextColumns:
    """The columns of anchors, positives, negatives and scores; only the anchors are required."""

    anchor: str
    positive: str
    negative: str
    score: str | None
    """None if scores are not read"""
    score_range: tuple[float, float] = (0.0, 1.0)
    """The lowest and the highest score, which are mapped to 0 and 1"""

    def texts(self, rows: Mapping[str, Sequence[Any]]) -> list[list[str]]:
        """The texts of each row: the anchor and, if there are such columns, positive and negatives.

        Raises RowError and AnswerError for cells that are not texts, for an empty list of
        negatives, and for a negative that equals the positive.
        """
        found = [[text] for text in text_column(rows, self.anchor, "recipe.text")]
        if self.positive not in rows:
            return found
        for row, text in enumerate(self._positives(rows)):
            found[row].append(text)
        if self.negative in rows:
            for row, cell in enumerate(label_column(rows, self.negative, "recipe.negative")):
                found[row] += self._negatives(cell, row, found[row][1])
        return found

    def scores(self, rows: Mapping[str, Sequence[Any]]) -> list[float] | None:
        """The score of each row, scaled to 0 to 1; None if there is no column of scores.

        A score belongs to a pair, so the result is also None without a column of positives. Raises
        AnswerError for values that are not numbers or out of range.
        """
        if self.score is None or not {self.score, self.positive} <= rows.keys():
            return None
        least, most = self.score_range
        found = []
        for row, cell in enumerate(rows[self.score]):
            score = labels.as_number(cell)
            if score is None or not least <= score <= most:
                accepted = f"accepted: {least:g} to {most:g} (recipe.score_range)"
                raise AnswerError(row, f"'{self.score}' is {cell!r:.60}; {accepted}")
            found.append((score - least) / (most - least))
        return found

    def _positives(self, rows: Mapping[str, Sequence[Any]]) -> list[str]:
        texts = list(rows[self.positive])
        for row, text in enumerate(texts):
            if not isinstance(text, (str, int, float)):
                raise AnswerError(row, f"'{self.positive}' is {text!r:.60}; accepted: text")
        return list(map(str, texts))

    def _negatives(self, cell: object, row: int, positive: str) -> list[str]:
        where = f"'{self.negative}'"
        found = [cell] if isinstance(cell, str) else cell
        if not isinstance(found, (list, tuple)) or not all(isinstance(x, str) for x in found):
            raise AnswerError(row, f"{where} is {cell!r:.60}; accepted: a text, or a list of texts")
        if not found:
            raise AnswerError(row, f"{where} is an empty list; accepted: one text or more")
        if positive in found:
            raise AnswerError(row, f"{where} holds the text of '{self.positive}'; accepted: others")
        return list(found)


@dataclass(frozen=True)
class TextPrompts:
    """Named prompts to put before texts, and the name of the default prompt."""

    prompts: Mapping[str, str]
    usual: str | None
    """The name of the default prompt; None for no prompt"""
    retrieves: bool
    """Whether a sample is a query with documents; the prompts "query" and "document" then apply"""

    def before(self, texts: Sequence[str]) -> list[str]:
        """The texts of a sample, each after its prompt."""
        usual = self.prompts.get(self.usual or "", "")
        if len(texts) == 1 or not self.retrieves:
            return [usual + text for text in texts]
        query, document = (self.prompts.get(name, usual) for name in ("query", "document"))
        return [query + texts[0], *(document + text for text in texts[1:])]


def text_hash(text: str) -> int:
    """A hash of a text, below 2**63; collisions are practically impossible."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


def with_repeats(rows: "Dataset", columns: TextColumns) -> "Dataset":
    """Add a column with the index of the first earlier row with the same texts, or -1."""
    import pyarrow as pa
    from datasets import Dataset, DatasetInfo, Value

    from trainer.data.row_locations import copy_locations
    from trainer.data.stored_cells import chunk_of

    if columns.anchor not in rows.column_names:
        return rows  # `features` reports the missing column
    seen: dict[int, int] = {}
    earlier, step = [], 1000
    for start in range(0, len(rows), step):
        chunk = chunk_of(rows, start, step)
        names = [n for n in (columns.anchor, columns.positive, columns.negative) if n in chunk]
        for number, cells in enumerate(zip(*(chunk[name] for name in names), strict=True), start):
            first = seen.setdefault(text_hash(repr(cells)), number)
            earlier.append(first if first != number else -1)
    table = rows.with_format("arrow")[:].append_column(EARLIER, pa.array(earlier, pa.int64()))
    info = DatasetInfo(features=type(rows.features)({**rows.features, EARLIER: Value("int64")}))
    repeats = Dataset(table, info=info, fingerprint=secrets.token_hex(8))
    return copy_locations(repeats, rows)


def refuse_repeated(rows: Mapping[str, Sequence[Any]], columns: TextColumns) -> None:
    """Raise AnswerError for a row of `with_repeats` that repeats the texts of an earlier row."""
    for number, first in enumerate(rows.get(EARLIER, ())):
        if first >= 0:
            accepted = "accepted: each once, or recipe.repeated_pairs=allow"
            found = f"the same '{columns.anchor}' and '{columns.positive}' as in row {first}"
            raise AnswerError(number, f"{found}; {accepted}")


def refuse_missing(rows: "Dataset", names: Mapping[str, str], objective: str) -> None:
    """Raise InputError if the training rows lack a column; `names` maps settings to columns."""
    for setting, name in names.items():
        if name not in rows.column_names:
            existing = ", ".join(rows.column_names)
            needs = f"recipe.objective={objective} needs the column '{name}'"
            raise InputError(f"dataset.train: {needs}; there are: {existing}; {setting} names it")
