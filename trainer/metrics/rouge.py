"""ROUGE (Lin, 2004) through rouge-score."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from trainer.errors import InputError
from trainer.metrics.metric import Metric

if TYPE_CHECKING:
    from trainer.tasks.comparison import Compared

KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")


@dataclass(frozen=True)
class Rouge(Metric):
    """The mean F1 of shared words, word pairs and subsequences, from 0 to 1, by `rouge-score`.

    If a text has several references, the best one counts.
    """

    use_stemmer: bool = False
    """Whether English words are compared by their stems."""

    name: ClassVar[str] = "rouge"
    greater_is_better = True
    kinds: ClassVar[tuple[str, ...]] = ("texts",)

    def names(self) -> tuple[str, ...]:
        return tuple(kind.lower() for kind in KINDS)

    def prepare(self) -> None:
        self._scorer()

    def compute(self, predictions: "Compared", references: "Compared") -> dict[str, float]:
        if not len(predictions):
            return dict.fromkeys(self.names(), math.nan)
        scorer, sums = self._scorer(), dict.fromkeys(KINDS, 0.0)
        for text, wanted in zip(predictions, references, strict=True):
            several = [wanted] if isinstance(wanted, str) else list(wanted)
            scores = scorer.score_multi(several, text)
            sums = {kind: total + scores[kind].fmeasure for kind, total in sums.items()}
        return {kind.lower(): total / len(predictions) for kind, total in sums.items()}

    def _scorer(self) -> Any:
        try:
            from rouge_score.rouge_scorer import RougeScorer
        except ImportError:
            accepted = "accepted: after pip install 'tempering[texts]'"
            raise InputError(f"metrics: the package rouge-score is missing; {accepted}") from None
        return RougeScorer(KINDS, use_stemmer=self.use_stemmer)
