"""Exact texts: the share of generated texts that equal their reference."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from trainer.metrics.metric import Metric

if TYPE_CHECKING:
    from trainer.tasks.comparison import Compared


@dataclass(frozen=True)
class ExactTexts(Metric):
    """The share of texts that equal one of their references, apart from surrounding spaces."""

    name: ClassVar[str] = "exact_texts"
    greater_is_better = True
    kinds: ClassVar[tuple[str, ...]] = ("texts",)

    def names(self) -> tuple[str, ...]:
        return ("exact_match",)

    def compute(self, predictions: "Compared", references: "Compared") -> dict[str, float]:
        pairs = zip(predictions, references, strict=True)
        equal = sum(_equal(text, wanted) for text, wanted in pairs)
        return {"exact_match": equal / len(predictions) if len(predictions) else math.nan}


def _equal(text: str, wanted: Any) -> bool:
    several = [wanted] if isinstance(wanted, str) else wanted
    return text.strip() in [each.strip() for each in several]
