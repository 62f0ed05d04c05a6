"""SQuAD's figures against hand cases and the formulas of the official scripts."""

import collections
import math
import random
import re
import string
from typing import Any

import pytest

from trainer.errors import InputError
from trainer.metrics.question_answering import Squad, best_threshold, exact_match, f1, normalized
from trainer.tasks.comparison import ExtractedAnswer


def test_normalization_by_hand() -> None:
    assert normalized("The  Cat's a-hat, an END.") == "cats ahat end"
    assert normalized("A. the") == ""
    assert exact_match("The Nile", "nile!") == 1.0
    assert f1("in the Nile river", "Nile") == pytest.approx(2 * (1 / 3) / (4 / 3))
    assert f1("a", "the") == 1.0 and f1("", "Nile") == 0.0
    assert f1("x x y", "x y y") == pytest.approx(2 / 3)


def official_f1(prediction: str, truth: str) -> float:
    """SQuAD 2.0's compute_f1, rewritten from its definition with plain loops."""

    def tokens(text: str) -> list[str]:
        kept = "".join(c for c in text.lower() if c not in set(string.punctuation))
        return re.sub(r"\b(a|an|the)\b", " ", kept).split()

    gold, found = tokens(truth), tokens(prediction)
    if not gold or not found:
        return float(gold == found)
    left = collections.Counter(gold)
    same = 0
    for token in found:
        if left[token] > 0:
            left[token] -= 1
            same += 1
    return 0.0 if not same else 2 * same / (len(gold) + len(found))


WORDS = ["the", "a", "Nile", "nile.", "is", "in", "(Africa)", "--", "An", "1990s", "é", ""]


def texts(number: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randrange(6))) for _ in range(number)]


def test_f1_is_the_official_formula() -> None:
    pairs = list(zip(texts(400, 1), texts(400, 2), strict=True))
    assert sum(official_f1(*pair) not in (0.0, 1.0) for pair in pairs) > 50
    for found, wanted in pairs:
        assert f1(found, wanted) == pytest.approx(official_f1(found, wanted), abs=1e-12)


def test_the_best_reference_counts_and_figures_are_percent() -> None:
    found = Squad().compute(["the Nile", "Rhine", "x"], [["Rhine", "Nile"], "rhine", ["x y"]])
    assert found == {
        "exact_match": pytest.approx(100 * 2 / 3),
        "f1": pytest.approx(100 * (2 + 2 / 3) / 3),
    }


def test_questions_without_answers_need_the_second_version() -> None:
    with pytest.raises(InputError, match="question_answering_no_answer"):
        Squad().compute([""], [[]])
    found = Squad(no_answer=True).compute(["", "Nile", ""], [[], [], ["Nile"]])
    assert found["unanswered_f1"] == 50.0 and found["answered_f1"] == 0.0
    assert math.isnan(found["best_f1"])
    assert set(found) == set(Squad(no_answer=True).names())


def test_the_best_threshold_is_found_among_all() -> None:
    """Against a search that tries every threshold, with distinct scores."""
    draw = random.Random(3)
    for _ in range(30):
        number = draw.randrange(1, 12)
        above = draw.sample(range(-20, 20), number)
        wanted: list[list[str]] = [["Nile"] if draw.random() < 0.6 else [] for _ in above]
        best = [draw.choice(["Nile", "Nile river", "Rhine"]) for _ in above]
        given = [ExtractedAnswer("", b, float(s)) for b, s in zip(best, above, strict=True)]
        scores = [
            max([f1(b, w) for w in each] or [0.0]) for b, each in zip(best, wanted, strict=True)
        ]

        def total(threshold: float, given: Any = given, wanted: Any = wanted, scores: Any = scores):
            parts = [
                float(not w) if g.no_answer_score > threshold else (s if w else 0.0)
                for g, w, s in zip(given, wanted, scores, strict=True)
            ]
            return 100 * sum(parts) / len(parts)

        value, threshold = best_threshold(given, scores, wanted)
        assert value == pytest.approx(max(map(total, [-99.0, *map(float, above)])))
        assert total(threshold) == pytest.approx(value)
