"""Question answering: exact match and F1 of answers, as SQuAD's official scripts compute them."""

import math
import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from trainer.errors import InputError
from trainer.metrics.metric import Metric

if TYPE_CHECKING:
    from trainer.tasks.comparison import Compared

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized(answer: str) -> str:
    """The answer in lower case, without punctuation, articles or extra spaces."""
    return " ".join(ARTICLES.sub(" ", answer.lower().translate(PUNCTUATION)).split())


def exact_match(answer: str, reference: str) -> float:
    """1 if both are equal after normalization, otherwise 0."""
    return float(normalized(answer) == normalized(reference))


def f1(answer: str, reference: str) -> float:
    """The harmonic mean of precision and recall over the words of both, after normalization.

    If either has no words, the result is 1 if both have none, otherwise 0 (SQuAD 2.0's rule).
    """
    found, wanted = normalized(answer).split(), normalized(reference).split()
    if not found or not wanted:
        return float(found == wanted)
    shared = sum((Counter(found) & Counter(wanted)).values())
    if not shared:
        return 0.0
    precision, recall = shared / len(found), shared / len(wanted)
    return 2 * precision * recall / (precision + recall)


@dataclass
class Squad(Metric):
    """Exact match and F1 in percent: the mean over questions of the best value over references.

    It compares texts with lists of accepted texts. With `no_answer` it adds SQuAD 2.0's results:
    the values for questions with an answer and for questions without one. If the predictions have
    no-answer scores, it also adds the best values that a threshold on these scores gives, and the
    thresholds.
    """

    no_answer: bool = False
    """Whether questions may have no answer, as in SQuAD 2.0; true adds the results of SQuAD 2.0."""

    name: ClassVar[str] = "squad"
    greater_is_better = True
    kinds: ClassVar[tuple[str, ...]] = ("answers", "texts")

    def names(self) -> tuple[str, ...]:
        more = (*GROUPS, *BEST) if self.no_answer else ()
        return ("exact_match", "f1", *more)

    def compute(self, predictions: "Compared", references: "Compared") -> dict[str, float]:
        """The results by name; nan for a group without questions.

        Raises InputError if a question has no reference and `no_answer` is false.
        """
        wanted = [[each] if isinstance(each, str) else list(each) for each in references]
        if not self.no_answer and any(not each for each in wanted):
            raise InputError(
                "metrics: a question has no answer; accepted: metrics=question_answering_no_answer"
            )
        texts = [getattr(each, "text", each) for each in predictions]
        exact, f1_scores = _scores(texts, wanted)
        found = {"exact_match": _percent(exact), "f1": _percent(f1_scores)}
        return found | self._by_group(exact, f1_scores, wanted) | self._best(predictions, wanted)

    def _by_group(
        self, exact: list[float], f1_scores: list[float], wanted: list[list[str]]
    ) -> dict[str, float]:
        if not self.no_answer:
            return {}
        groups = [[bool(each) for each in wanted], [not each for each in wanted]]
        values = [
            _percent([score for score, chosen in zip(scores, group, strict=True) if chosen])
            for group in groups
            for scores in (exact, f1_scores)
        ]
        return dict(zip(GROUPS, values, strict=True))

    def _best(self, predictions: "Compared", wanted: list[list[str]]) -> dict[str, float]:
        if not self.no_answer:
            return {}
        if not all(hasattr(each, "no_answer_score") for each in predictions):
            return dict.fromkeys(BEST, math.nan)
        both = _scores([each.best for each in predictions], wanted)
        chosen = [best_threshold(predictions, scores, wanted) for scores in both]
        return dict(zip(BEST, [value for pair in chosen for value in pair], strict=True))


GROUPS = ("answered_exact_match", "answered_f1", "unanswered_exact_match", "unanswered_f1")
BEST = ("best_exact_match", "best_exact_match_threshold", "best_f1", "best_f1_threshold")


def f1_threshold(predictions: "Compared", references: "Compared") -> float:
    """The threshold on the no-answer score that gives the best F1 (see `best_threshold`)."""
    wanted = [list(each) for each in references]
    scores = _scores([each.best for each in predictions], wanted)[1]
    return best_threshold(predictions, scores, wanted)[1]


def best_threshold(
    predictions: "Compared", scores: Sequence[float], references: Sequence[Sequence[str]]
) -> tuple[float, float]:
    """The best mean score in percent and its threshold, found as in SQuAD 2.0's script.

    A question whose no-answer score is above the threshold gets no answer. `scores` are those of
    the best spans. If predicting no answer for all questions gives the best score, the threshold is
    below all no-answer scores (SQuAD's script returns 0).
    """
    if not len(predictions):
        return math.nan, math.nan
    texts = [each.best for each in predictions]  # type: ignore[union-attr]
    no_answer = [float(each.no_answer_score) for each in predictions]  # type: ignore[union-attr]
    order = sorted(range(len(no_answer)), key=no_answer.__getitem__)
    total = best = float(sum(not each for each in references))
    threshold = no_answer[order[0]] - 1.0
    for index in order:
        if references[index]:
            total += scores[index]
        elif texts[index]:
            total -= 1.0
        if total > best:
            best, threshold = total, no_answer[index]
    return 100.0 * best / len(predictions), threshold


def _scores(texts: list[str], wanted: list[list[str]]) -> tuple[list[float], list[float]]:
    """Each answer's exact match and F1, each the maximum over the answer's references."""
    accepted = [[each for each in several if normalized(each)] or [""] for several in wanted]
    pairs = list(zip(texts, accepted, strict=True))
    exact = [max(exact_match(text, each) for each in several) for text, several in pairs]
    return exact, [max(f1(text, each) for each in several) for text, several in pairs]


def _percent(scores: list[float]) -> float:
    return 100.0 * sum(scores) / len(scores) if scores else math.nan
