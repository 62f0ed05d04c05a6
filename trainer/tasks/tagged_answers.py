"""Tagged answers: the tags or spans that a token classifier predicts for each row."""

import math
from collections.abc import Sequence
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

from trainer.data.tag_schemes import OUTSIDE, Span
from trainer.data.tagged_rows import TaggedRows
from trainer.tasks.comparison import Comparison
from trainer.tasks.tagged_words import tagged_words

if TYPE_CHECKING:
    from trainer.data.batch import Batch
    from trainer.data.sample_rows import SampleRows
    from trainer.tasks.columns import Columns


def tag_answers(tagged: TaggedRows, columns: "Columns", rows: "SampleRows") -> list[dict[str, Any]]:
    """The predicted spans or tags of each row, with the reference spans if known."""
    given = enumerate(rows.column(tagged.text)) if rows.known else ()
    cells = chain((tagged.input(cell, row) for row, cell in given), repeat(None))
    words = tagged_words(columns, "tags", tagged.labels or ())
    found = [each.answer(cell, tagged.scheme) for each, cell in zip(words, cells, strict=False)]
    if "references" in columns and tagged.scheme != "none":
        references = _reference_spans(tagged, columns, rows)
        for answer, spans in zip(found, references, strict=True):
            keys = ("start", "end", "label")
            answer["reference"] = [dict(zip(keys, span, strict=True)) for span in spans]
    return found


def tag_comparison(tagged: TaggedRows, columns: "Columns", rows: "SampleRows") -> Comparison | None:
    """The comparison of all rows' spans, or of all tags if they form no spans (scheme none)."""
    if "references" not in columns:
        return None
    if tagged.scheme == "none":
        return Comparison("classes", *_tag_pairs(columns), tagged.labels)
    found = [words.spans() for words in tagged_words(columns, "tags", tagged.labels or ())]
    return Comparison("spans", found, _reference_spans(tagged, columns, rows))


def tag_accuracy(columns: "Columns") -> float:
    """The share of words with the right tag; nan if no word has a reference tag."""
    tags, wanted = _tag_pairs(columns)
    return float((tags == wanted).mean()) if len(tags) else math.nan


def tag_notes(batch: "Batch", labels: Sequence[str]) -> list[str | None]:
    """[T], the tag of each word's first token unless it is O; None for all other tokens."""
    names = [name * (name != OUTSIDE) for name in labels]
    firsts = zip(batch["starts"].tolist(), batch["labels"].tolist(), strict=True)
    return [names[label] if start >= 0 else None for start, label in firsts]


def _reference_spans(
    tagged: TaggedRows, columns: "Columns", rows: "SampleRows"
) -> list[list[Span]]:
    """The reference spans of each row; they do not depend on the tokenization if rows are known."""
    if not rows.known or not {tagged.text, tagged.label} <= set(rows.column_names):
        words = tagged_words(columns, "references", tagged.labels or ())
        return [each.spans() for each in words]
    pairs = zip(rows.column(tagged.text), rows.column(tagged.label), strict=True)
    return [
        tagged.spans(tagged.input(cell, row), answer, row)
        for row, (cell, answer) in enumerate(pairs)
    ]


def _tag_pairs(columns: "Columns") -> tuple[Any, Any]:
    """The predicted and the reference tags, of all words that have a reference."""
    tags, wanted = columns["tags"].values, columns["references"].values
    is_compared = (columns["starts"].values >= 0) & (wanted >= 0)
    return tags[is_compared], wanted[is_compared]
