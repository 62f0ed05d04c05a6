"""Scores of rankings, computed by hand and compared with scikit-learn."""

import math

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from trainer.errors import InputError
from trainer.metrics.named import metrics_of
from trainer.metrics.retrieval import MRR, NDCG, HitRate, RecallAt

SCORES = [[0.1, 0.9, 0.5, 0.7], [0.3, 0.2, 0.1, 0.0], [1.0, 1.0, 1.0, 1.0]]
RELEVANT = [[1, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]]
"""Ranks of relevant documents, from 1: 3 and 4; 1; 4 (equal scores keep their order)."""


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (RecallAt(3), (0.5 + 1 + 0) / 3),
        (RecallAt(4), 1.0),
        (HitRate(), 1 / 3),
        (HitRate(3), 2 / 3),
        (MRR(10), (1 / 3 + 1 + 1 / 4) / 3),
        (MRR(2), 1 / 3),
    ],
)
def test_by_hand(metric: RecallAt, expected: float) -> None:
    found = metric.compute(SCORES, RELEVANT)
    assert found == {metric.names()[0]: pytest.approx(expected)}


def test_ndcg_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    scores, relevances = rng.random((20, 30)), rng.integers(0, 4, (20, 30))
    for at in (1, 5, 10, 40):
        found = NDCG(at).compute(list(scores), list(relevances))[f"ndcg_at_{at}"]
        assert found == pytest.approx(ndcg_score(relevances, scores, k=at), rel=1e-12)


def test_queries_without_a_relevant_document_are_left_out() -> None:
    found = MRR().compute([*SCORES, [1.0]], [*RELEVANT, [0]])
    assert found == MRR().compute(SCORES, RELEVANT)
    assert math.isnan(MRR().compute([[1.0]], [[0]])["mrr_at_10"])


def test_names_and_bounds() -> None:
    assert list(metrics_of(["ndcg", "recall_at"])) == ["ndcg_at_10", "recall_at_10"]
    with pytest.raises(InputError, match=r"metrics\.ndcg\.at: found 0; accepted: 1 or more"):
        NDCG(0)
