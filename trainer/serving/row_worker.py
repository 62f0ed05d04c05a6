"""RowWorker: answers the rows of several requests together."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.serving.faults import RequestFault
from trainer.serving.figures import Figures
from trainer.serving.scheduler import Channel, fault_of

MAX_ROWS = 256
"""The maximum number of rows that are answered together; the model may split them into batches."""

Row = Mapping[str, Any]
"""A row with the recipe's text columns."""
Answer = dict[str, Any]
"""The recipe's answer to a row, as job=predict writes it."""
AnswerRows = Callable[[Sequence[Row]], list[Answer]]
"""A function that answers rows."""


@dataclass(frozen=True, eq=False)
class Question:
    """The rows of a request. The list of answers is put into the request's channel as an event."""

    channel: Channel
    rows: Sequence[Row]
    answer_rows: AnswerRows
    """The function for the answers. Requests with the same function are answered together."""


class RowWorker:
    """Answers the rows of several requests together, in the model's thread."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures
        self._admitted: list[Question] = []

    @property
    def busy(self) -> bool:
        return bool(self._admitted)

    @property
    def running(self) -> int:
        return sum(len(each.rows) for each in self._admitted)

    def admit(self, waiting: deque[Question]) -> None:
        """Admit requests in order, as long as they have the same `answer_rows`."""
        while waiting:
            first = self._admitted[0] if self._admitted else waiting[0]
            rows = self.running + len(waiting[0].rows)
            is_other = waiting[0].answer_rows is not first.answer_rows
            if self._admitted and (is_other or rows > MAX_ROWS):
                return
            question = waiting.popleft()
            if not question.channel.closed:
                self._admitted.append(question)

    def step(self) -> None:
        """Answer the admitted requests; an error in one request does not affect the others."""
        rows = [row for question in self._admitted for row in question.rows]
        self._figures.texts_per_call.observe(len(rows))
        try:
            answers = iter(self._admitted[0].answer_rows(rows))
        except Exception as error:
            if len(self._admitted) > 1:
                self._answer_separately()
            else:
                self.fail(fault_of(error, status=422))
            return
        for question in self._admitted:
            question.channel.put([next(answers) for _ in question.rows])
        self._admitted = []

    def fail(self, fault: RequestFault) -> None:
        for question in self._admitted:
            question.channel.put(fault)
        self._admitted = []

    def _answer_separately(self) -> None:
        questions = self._admitted
        for question in questions:
            self._admitted = [question]
            self.step()
