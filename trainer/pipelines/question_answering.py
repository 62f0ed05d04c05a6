"""Question answering: finds answers to questions in contexts, in transformers' output format."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from trainer.errors import InputError
from trainer.foreign.counts import checked_count
from trainer.pipelines.of_recipe import Pipeline, listed_rows
from trainer.tasks.answer_spans import Span, spans_of

log = logging.getLogger("trainer")

MAX_LENGTH = 384
"""The default number of tokens in a window, as in transformers 4; the tokenizer may limit it."""
SHARED = 128
"""The default number of tokens that adjacent windows share."""


class QuestionAnsweringPipeline(Pipeline):
    """`pipeline("question-answering", model)(question=..., context=...)`."""

    head: ClassVar[str] = "question_answering"

    def __call__(
        self,
        inputs: object = None,
        *,
        question: str | Sequence[str] | None = None,
        context: str | Sequence[str] | None = None,
        top_k: int = 1,
        doc_stride: int | None = None,
        max_answer_len: int = 15,
        max_seq_len: int | None = None,
        max_question_len: int | None = None,
        handle_impossible_answer: bool = False,
        align_to_words: bool = True,
    ) -> Any:
        """Answer each question: `{"score", "start", "end", "answer"}`.

        If `top_k` is greater than 1, a list of the best answers is returned for each question.
        Arguments and answers are as in transformers 4. `question` and `context` are texts or
        lists of texts; one context may be given for several questions. Alternatively, `inputs` is a
        mapping with both, or a list of such mappings. For lists, a list of answers is returned.
        Probabilities of answers with equal text are added. With `handle_impossible_answer`, the
        empty answer is a candidate too. `max_question_len` has no effect, as in transformers.
        """
        top_k = checked_count("pipeline: top_k", top_k)
        max_answer_len = checked_count("pipeline: max_answer_len", max_answer_len)
        if doc_stride is not None:
            doc_stride = checked_count("pipeline: doc_stride", doc_stride, 0)
        if max_seq_len is not None:
            max_seq_len = checked_count("pipeline: max_seq_len", max_seq_len)
        if max_question_len is not None:
            log.warning("pipeline: max_question_len is not read; questions are never cut")
        rows, several = _rows(inputs, question, context)
        longest = max_seq_len or min(self.tokens.model_max_length, MAX_LENGTH)
        configured = self._with_options(
            max_length=longest,
            stride=min(longest // 2, SHARED) if doc_stride is None else doc_stride,
            max_answer_length=max_answer_len,
            align_to_words=align_to_words,
            n_best=top_k * 2 + 10 if align_to_words else top_k,
        )
        names = self.recipe.text_columns
        found = configured.predictions([dict(zip(names, row, strict=True)) for row in rows])
        answers = [
            _answers(found, number, context, top_k, handle_impossible_answer)
            for number, (_, context) in enumerate(rows)
        ]
        return answers if several else answers[0]

    def _with_options(self, **options: object) -> Pipeline:
        recipe = replace(self.recipe, **options)  # type: ignore[type-var]
        if recipe == self.recipe:
            return self
        return Pipeline(self.model, recipe, self.tokenizer, self.settings)


def _rows(inputs: Any, question: Any, context: Any) -> tuple[list[tuple[str, str]], bool]:
    """(question, context) of each row, and whether the caller passed several rows."""
    accepted = "accepted: question= and context=, or mappings of both"
    if inputs is not None:
        several = not isinstance(inputs, Mapping)
        rows = listed_rows(inputs)
        if not all(isinstance(row, Mapping) and {"question", "context"} <= {*row} for row in rows):
            raise InputError(f"pipeline: found no question with a context; {accepted}")
        pairs = [(row["question"], row["context"]) for row in rows]
    else:
        several = not isinstance(question, str)
        questions = listed_rows(question or ()) if several else [question]
        one = isinstance(context, str)
        contexts = [context] * len(questions) if one else listed_rows(context or ())
        if len(questions) != len(contexts):
            found = f"{len(questions)} questions and {len(contexts)} contexts"
            raise InputError(f"pipeline: found {found}; {accepted}")
        pairs = list(zip(questions, contexts, strict=True))
    if not pairs or not all(
        isinstance(text, str) and text.strip() for pair in pairs for text in pair
    ):
        raise InputError(f"pipeline: found no text, or an empty one; {accepted}")
    return pairs, several and len(pairs) > 1


def _answers(
    columns: Mapping[str, Any],
    number: int,
    context: str,
    top_k: int,
    handle_impossible_answer: bool,
) -> Any:
    found: dict[str, dict[str, Any]] = {}
    for span in spans_of(columns, number):
        text = context[span.start : span.end]
        known = found.setdefault(text.lower(), _answer(span, text))
        known["score"] += span.probability
    answers = list(found.values())
    if handle_impossible_answer:
        none = columns["null_scores"][number] - columns["normalizers"][number]
        score = math.exp(none.min())
        answers.append({"score": score, "start": 0, "end": 0, "answer": ""})
    answers = sorted(answers, key=lambda answer: -answer["score"])[:top_k]
    return answers[0] if len(answers) == 1 else answers


def _answer(span: Span, text: str) -> dict[str, Any]:
    return {"score": 0.0, "start": span.start, "end": span.end, "answer": text}
