"""Tagged rows: reads words with tags, or texts with spans, and converts tags to label ids."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from trainer.data import labels as cells
from trainer.data import tag_schemes as schemes
from trainer.data.rows import column_of, label_column
from trainer.data.tag_schemes import Span
from trainer.data.text_spans import read_spans, text_of
from trainer.data.word_windows import EncodedWords, given_words
from trainer.errors import AnswerError, InputError, RowError, nearest
from trainer.plurals import plural

if TYPE_CHECKING:
    from datasets import Dataset

Words = str | list[str]
"""A row's input: a text, or its words."""


@dataclass(frozen=True)
class TaggedRows:
    """The columns of words and tags, and the scheme and labels of the tags."""

    text: str
    """Column of lists of words, or of texts"""
    label: str
    """Column of tags, or of spans"""
    scheme: str
    """A key of SCHEMES, or auto"""
    labels: list[str] | None
    """The tags in the order of their ids; None if they are not known yet"""
    repair: bool = False
    """Whether tags that break the scheme are repaired"""
    expand: bool = False
    """Whether spans that end inside a word are extended to the whole word"""

    def learnt(self, tables: Sequence["Dataset"]) -> dict[str, Any]:
        """The options `labels` and `scheme` for these tables. Raises InputError.

        The labels are those that are set, else the class names of the first table's column, else
        the tags that occur in the rows.
        """
        names = _feature_names(tables[0], self.label)
        if self.labels is not None or names:
            found = list(self.labels or names or ())
            scheme = schemes.scheme_of(found) if self.scheme == "auto" else self.scheme
            return {"labels": found, "scheme": scheme}
        tags = sorted(set(chain.from_iterable(map(self._names, tables))))
        if not tags:
            raise InputError(f"recipe.label: '{self.label}' holds no tag; accepted: one or more")
        scheme = schemes.scheme_of(tags) if self.scheme == "auto" else self.scheme
        return {"labels": schemes.complete(tags, scheme), "scheme": scheme}

    def _names(self, rows: "Dataset") -> set[str]:
        """The tags that occur in rows; spans of texts count as tags of the scheme.

        Invalid rows are skipped, since `features` refuses or drops them.
        """
        found: set[str] = set()
        refused: RowError | None = None
        cells = label_column(rows, self.text, "recipe.text")
        answers = column_of(rows, self.label, "recipe.label")
        for row, (cell, answer) in enumerate(zip(cells, answers, strict=True)):
            try:
                found |= self._names_of(self.input(cell, row), answer, row)
            except RowError as error:
                refused = refused or error
        if refused is not None and not found:
            raise refused
        return found

    def _names_of(self, words: Words, answer: object, row: int) -> set[str]:
        if not isinstance(words, str):
            return set(self._tags(words, answer, row))
        if self.scheme == "none":
            found = "none, and the rows are texts with spans"
            raise InputError(f"recipe.scheme: found {found}; accepted: IO, BIO, BIOES")
        prefix = "I" if self.scheme == "IO" else "B"
        return {f"{prefix}-{kind}" for _, _, kind in read_spans(answer, words, row, self.label)}

    def inputs(self, rows: "Dataset | Mapping[str, Sequence[Any]]") -> list[Words]:
        """The texts or lists of words of all rows. Raises RowError for anything else."""
        found = [
            self.input(cell, row)
            for row, cell in enumerate(label_column(rows, self.text, "recipe.text"))
        ]
        for row, cell in enumerate(found):
            if type(cell) is not type(found[0]):
                kind = "a text" if isinstance(cell, str) else "a list of words"
                problem = f"'{self.text}' is {kind}, unlike in other rows"
                raise RowError(row, f"{problem}; accepted: only texts, or only lists of words")
        return found

    def input(self, cell: object, row: int) -> Words:
        """The text of a row, or its words. Raises RowError for anything else."""
        if not isinstance(cell, Sequence) or isinstance(cell, str):
            return text_of(cell, row, self.text)
        for place, word in enumerate(cell):
            if not isinstance(word, str):
                found = f"entry {place + 1} is {word!r:.60}"
                raise RowError(row, f"'{self.text}': {found}; accepted: words (texts)")
        return list(cell)

    def spans(self, words: Words, answer: object, row: int) -> list[Span]:
        """The spans of an answer, in characters of the text, or of the words joined by spaces."""
        if isinstance(words, str):
            return read_spans(answer, words, row, self.label)
        places = given_words(words)
        found = schemes.spans_of(self._tags(words, answer, row))
        return [(places[start][0], places[end - 1][1], kind) for start, end, kind in found]

    def ids(self, words: Words, answer: object, encoded: EncodedWords, row: int) -> list[int]:
        """The label id of each encoded word. Raises AnswerError."""
        assert self.labels is not None
        if isinstance(words, str):
            spans = self._word_spans(words, answer, encoded, row)
            number = len(encoded.starts)
            tags = schemes.tags_of(spans, number, self.scheme, schemes.is_bare(self.labels))
        else:
            given = self._checked(self._tags(words, answer, row), row)
            by_start = dict(zip((start for start, _ in given_words(words)), given, strict=True))
            tags = [by_start[start] for start in encoded.starts]
        ids = {name: number for number, name in enumerate(self.labels)}
        for tag in tags:
            if tag not in ids:
                accepted = ", ".join(self.labels[:8]) + ", ..." * (len(self.labels) > 8)
                accepted += nearest(tag, self.labels)
                raise AnswerError(row, f"'{self.label}' holds '{tag}'; accepted: {accepted}")
        return [ids[tag] for tag in tags]

    def continued_ids(self) -> dict[int, int]:
        """Label id of a word's first token -> label id of its other tokens (B-per -> I-per)."""
        assert self.labels is not None
        found = {}
        for number, tag in enumerate(self.labels):
            prefix, kind = schemes.split_tag(tag)
            following = f"{schemes.CONTINUED.get(prefix, prefix)}-{kind}"
            known = self.scheme != "none" and following in self.labels
            found[number] = self.labels.index(following) if known else number
        return found

    def _tags(self, words: Sequence[str], answer: object, row: int) -> list[str]:
        """The names of the tags of a row of words. Raises AnswerError."""
        if not isinstance(answer, Sequence) or isinstance(answer, str):
            accepted = "accepted: a list with a tag for each word"
            raise AnswerError(row, f"'{self.label}' is {answer!r:.60}; {accepted}")
        if len(answer) != len(words):
            raise AnswerError(
                row,
                f"'{self.label}' has {plural(len(answer), 'tag')} for "
                f"{plural(len(words), 'word')} of '{self.text}'; "
                "accepted: one for each",
            )
        return [self._tag(value, place, row) for place, value in enumerate(answer)]

    def _tag(self, value: object, place: int, row: int) -> str:
        where = f"'{self.label}': entry {place + 1}"
        if isinstance(value, str) and value:
            return value
        if self.labels is None or isinstance(value, (bool, str)) or not isinstance(value, int):
            hint = " (recipe.labels names whole numbers)" if type(value) is int else ""
            raise AnswerError(row, f"{where} is {value!r:.60}; accepted: the name of a tag{hint}")
        return self.labels[cells.id_of(value, self.labels, "ids", row, where)]

    def _checked(self, tags: list[str], row: int) -> list[str]:
        """The tags, repaired if requested. Raises AnswerError if they break the scheme."""
        fault = schemes.fault_of(tags, self.scheme)
        if fault is None:
            return tags
        if self.repair:
            return schemes.tags_of(schemes.spans_of(tags), len(tags), self.scheme)
        place, reason = fault
        raise AnswerError(
            row,
            f"'{self.label}': entry {place + 1}: {reason}; accepted: tags in {self.scheme}, or "
            "recipe.repair=true to repair them",
        )

    def _word_spans(
        self, text: str, answer: object, encoded: EncodedWords, row: int
    ) -> Iterable[Span]:
        """Yield the spans as ranges of words. Raises AnswerError if one ends inside a word."""
        starts, ends = encoded.starts, encoded.ends
        free = 0
        for start, end, kind in read_spans(answer, text, row, self.label):
            first, after = bisect_right(ends, start), bisect_left(starts, end)
            words = text[starts[first] : ends[after - 1]] if first < after else ""
            if words != text[start:end].strip() and not (self.expand and words):
                shown = f"'{text[start:end]:.40}' ({start} to {end})"
                within = f"is not the words '{words:.40}'" if words else "has no token"
                raise AnswerError(
                    row,
                    f"'{self.label}': {shown} {within}; accepted: spans of whole words (as the "
                    "tokenizer splits them), or recipe.misaligned=expand",
                )
            first = max(first, free)  # if two spans share a word, it belongs to the first one
            if first < after:
                free = after
                yield first, after, kind


def column_in(names: Sequence[str], usual: Sequence[str]) -> str | None:
    """The first of the usual columns that exists; None if none does."""
    return next((name for name in usual if name in names), None)


def _feature_names(rows: "Dataset", column: str) -> list[str] | None:
    """The names of a column of lists of classes, as the hub's data sets declare them."""
    feature = rows.features.get(column)
    return getattr(getattr(feature, "feature", None), "names", None)
