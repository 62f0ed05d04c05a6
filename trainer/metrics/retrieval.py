"""Scores of rankings: recall, nDCG, mean reciprocal rank and hit rate of the first k documents."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from trainer.errors import InputError
from trainer.metrics.metric import Metric

if TYPE_CHECKING:
    import numpy as np

    from trainer.tasks.comparison import Compared


@dataclass(frozen=True)
class RankingScore(Metric):
    """The mean of a score over queries; queries without a relevant document are left out.

    Documents with equal scores keep their order. Subclasses define `score`.
    """

    at: int = 10
    """The number of top-ranked documents that count."""

    name: ClassVar[str]
    greater_is_better = True
    kinds = ("rankings",)

    def __post_init__(self) -> None:
        if self.at < 1:
            raise InputError(f"metrics.{self.name}.at: found {self.at}; accepted: 1 or more")

    def names(self) -> tuple[str, ...]:
        return (f"{self.name}_at_{self.at}",)

    def compute(self, predictions: "Compared", references: "Compared") -> dict[str, float]:
        import numpy as np

        values = []
        for scores, relevances in zip(predictions, references, strict=True):
            scores, relevances = np.asarray(scores), np.asarray(relevances, dtype=np.float64)
            relevant = np.flatnonzero(relevances > 0)
            if len(relevant):
                ranks = ranks_of(scores, relevant)
                values.append(self.score(ranks, relevances[relevant]))
        return dict.fromkeys(self.names(), float(np.mean(values)) if values else math.nan)

    def score(self, ranks: "np.ndarray", relevances: "np.ndarray") -> float:
        """A query's score, from ranks (from 0) and relevances [R] of its R relevant documents."""
        raise AssertionError(f"{type(self).__name__} has no score")


@dataclass(frozen=True)
class RecallAt(RankingScore):
    """The share of the relevant documents that are among the first `at`."""

    name = "recall_at"

    def names(self) -> tuple[str, ...]:
        return (f"recall_at_{self.at}",)

    def score(self, ranks: "np.ndarray", relevances: "np.ndarray") -> float:
        return float((ranks < self.at).mean())


@dataclass(frozen=True)
class HitRate(RankingScore):
    """Whether any relevant document is among the first `at`."""

    at: int = 1
    """The number of top-ranked documents that count."""
    name = "hit_rate"

    def score(self, ranks: "np.ndarray", relevances: "np.ndarray") -> float:
        return float(ranks.min() < self.at)


@dataclass(frozen=True)
class MRR(RankingScore):
    """1 / the rank (from 1) of the first relevant document; 0 if not among the first `at`."""

    name = "mrr"

    def score(self, ranks: "np.ndarray", relevances: "np.ndarray") -> float:
        return 1.0 / (1 + int(ranks.min())) if ranks.min() < self.at else 0.0


@dataclass(frozen=True)
class NDCG(RankingScore):
    """Discounted cumulative gain, divided by its maximum (Järvelin and Kekäläinen 2002).

    A document's gain is its relevance, as in trec_eval and scikit-learn.
    """

    name = "ndcg"

    def score(self, ranks: "np.ndarray", relevances: "np.ndarray") -> float:
        import numpy as np

        first = ranks < self.at
        gained = (relevances[first] / np.log2(ranks[first] + 2)).sum()
        best = np.sort(relevances)[::-1][: self.at]
        return float(gained / (best / np.log2(np.arange(len(best)) + 2)).sum())


def ranks_of(scores: "np.ndarray", documents: "np.ndarray") -> "np.ndarray":
    """The ranks (from 0) of some `documents` [R] among all, given the scores [C] of all."""
    import numpy as np

    found = [
        int((scores > scores[document]).sum() + (scores[:document] == scores[document]).sum())
        for document in documents
    ]
    return np.array(found)
