"""Comparison: the predictions and references that metrics compare, and their kind."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np

Compared: TypeAlias = "np.ndarray | Sequence[Any]"
"""One side of a comparison: an array, or a list of Python objects."""

KINDS = {
    "classes": "class ids, [N]",
    "label_sets": "0 or 1 for each class, [N, C]",
    "numbers": "numbers, [N]",
    "spans": "a list of (start, end, label) for each text",
    "texts": "a text for each sample; a reference may be a list of accepted texts",
    "answers": "an ExtractedAnswer for each sample; a reference is a list of accepted texts",
    "rankings": "a list of scores for each query, with a list of relevances",
}
"""Kind of comparison -> what each side contains. A recipe may use other kinds."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Predictions and references of equal length, in the order of the samples."""

    kind: str
    """A key of KINDS, or a name of your own that your metrics declare too."""
    predictions: Compared
    references: Compared
    names: Sequence[str] | None = None
    """The names of class ids; with kind "classes" they add a report by class."""


@dataclass(frozen=True)
class ExtractedAnswer:
    """The answer to a question about a text."""

    text: str
    """The answer; empty if the recipe predicts that there is none."""
    best: str
    """The best answer in the text, even if the recipe predicts that there is none."""
    no_answer_score: float
    """The score of no answer minus that of the best answer, as a difference of logits."""
