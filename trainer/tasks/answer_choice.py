"""AnswerChoice: chooses a sample's answer, or no answer, from the spans of its windows."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer.data.answers_in_text import answers_of
from trainer.tasks.answer_spans import Span, ranked
from trainer.tasks.comparison import Comparison, ExtractedAnswer

if TYPE_CHECKING:
    from trainer.tasks.columns import Columns


@dataclass(frozen=True)
class AnswerChoice:
    """When to predict that a question has no answer, and how many candidates to list."""

    no_answer: bool
    """Whether a question may have no answer."""
    threshold: float
    """The no-answer score above which a question has no answer."""
    n_best: int
    """The number of candidates to list; 1 lists none."""

    def comparison(
        self, columns: "Columns", contexts: Iterable[str], cells: Iterable[Any], name: str
    ) -> Comparison:
        """The predicted answers of all samples, with the reference answers in the column `name`."""
        found, wanted = [], []
        for number, (context, cell) in enumerate(zip(contexts, cells, strict=True)):
            best, no_answer_score = self._best(columns, number)
            text = context[best.start : best.end]
            given = "" if self._abstains(no_answer_score) else text
            found.append(ExtractedAnswer(given, text, no_answer_score))
            wanted.append([each.text for each in answers_of(cell, context, number, name)])
        return Comparison("answers", found, wanted)

    def answer(self, columns: "Columns", number: int, context: str) -> dict[str, Any]:
        """A sample's answer for the user, with its position in the context."""
        best, no_answer_score = self._best(columns, number)
        found = _as_answer(best, context)
        if self._abstains(no_answer_score):
            found |= {"answer": "", "start": 0, "end": 0}
        if self.no_answer:
            found["no_answer_score"] = no_answer_score
        if self.n_best > 1:
            spans = ranked(columns, number)[: self.n_best]
            found["candidates"] = [_as_answer(span, context) for span in spans]
        return found

    def _best(self, columns: "Columns", number: int) -> tuple[Span, float]:
        """A sample's best span, and how far the no-answer score exceeds it."""
        best = ranked(columns, number)[0]
        return best, float(columns["null_scores"][number].min()) - best.score

    def _abstains(self, no_answer_score: float) -> bool:
        return self.no_answer and no_answer_score > self.threshold


def _as_answer(span: Span, context: str) -> dict[str, Any]:
    answer = context[span.start : span.end]
    return {"answer": answer, "start": span.start, "end": span.end, "score": span.probability}
