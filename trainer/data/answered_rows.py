"""Answered rows: rows of questions, contexts and answers, cut into windows with target tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer.data.answers_in_text import Answer, answers_of, has_no_answer
from trainer.data.rows import column_of, text_column
from trainer.errors import AnswerError

if TYPE_CHECKING:
    from datasets import Dataset

    from trainer.data.context_windows import Windows
    from trainer.tokenizer import Tokenizer

Rows = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class AnsweredRows:
    """The columns of questions, contexts and answers, and the size of the windows."""

    question: str
    context: str
    answer: str
    max_length: int
    """The largest number of tokens in a window"""
    stride: int
    """The number of context tokens that neighboring windows share"""
    no_answer: bool | None
    """Whether a question may have no answer; None: not known yet"""

    def windows(self, rows: Rows, tokenizer: "Tokenizer", *, words: bool) -> dict[str, list[Any]]:
        """Columns for `Recipe.features`: the windows of each row, and the positions of its answer.

        With `words`, the offsets of a token are those of the whole word that contains it. Raises
        RowError and AnswerError.
        """
        from trainer.data.context_windows import windows_of

        questions = text_column(rows, self.question, "recipe.question")
        contexts = text_column(rows, self.context, "recipe.context")
        made = windows_of(questions, contexts, tokenizer, self.max_length, self.stride)
        columns: dict[str, list[Any]] = {
            "input_ids": [row.input_ids for row in made],
            "offsets": [row.words if words else row.offsets for row in made],
        }
        if "token_type_ids" in tokenizer.model_input_names:
            columns["token_type_ids"] = [row.token_type_ids for row in made]
        if self.answer in rows:
            pairs = enumerate(zip(made, self._answers(rows, contexts), strict=True))
            ranges = [
                self._target_tokens(windows, answers, row) for row, (windows, answers) in pairs
            ]
            columns["starts"] = [[start for start, _ in row] for row in ranges]
            columns["ends"] = [[end for _, end in row] for row in ranges]
        return columns

    def num_window_tokens(self, rows: Rows, tokenizer: "Tokenizer") -> int:
        """The number of tokens in all windows, counted without building them. Raises RowError."""
        from trainer.data.context_windows import num_window_tokens

        questions = text_column(rows, self.question, "recipe.question")
        contexts = text_column(rows, self.context, "recipe.context")
        return num_window_tokens(questions, contexts, tokenizer, self.max_length, self.stride)

    def any_without_answer(self, rows: "Dataset") -> bool:
        """Whether a row has no answer."""
        return any(map(has_no_answer, column_of(rows, self.answer, "recipe.answer")))

    def _answers(self, rows: Rows, contexts: Sequence[str]) -> list[list[Answer]]:
        """The answers of each row. Raises AnswerError for an answer that is not in its context."""
        cells = column_of(rows, self.answer, "recipe.answer")
        return [
            answers_of(cell, context, row, self.answer)
            for row, (cell, context) in enumerate(zip(cells, contexts, strict=True))
        ]

    def _target_tokens(
        self, windows: "Windows", answers: list[Answer], row: int
    ) -> list[tuple[int, int]]:
        """The first and last target token of each window: those of the first answer, or (0, 0)."""
        if not answers:
            if self.no_answer is False:
                found = f"'{self.answer}' has no answer"
                raise AnswerError(row, f"{found}; accepted: one, or recipe.no_answer=true")
            return [(0, 0) for _ in windows.input_ids]
        text, start = answers[0]
        start += len(text) - len(text.lstrip())
        ranges = windows.token_ranges(start, start + len(text.strip()))
        if not any(ranges):
            found = f"'{self.answer}': no window contains all of {text!r:.60}"
            raise AnswerError(row, f"{found}; accepted: a longer recipe.max_length or stride")
        return [each or (0, 0) for each in ranges]
