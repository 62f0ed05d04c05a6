"""Question answering: finds the part of a context that answers a question, if there is one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from trainer.data.answered_rows import AnsweredRows
from trainer.errors import AnswerError, InputError
from trainer.metrics.question_answering import f1_threshold
from trainer.tasks.answer_choice import AnswerChoice
from trainer.tasks.recipe import Axis, Head, Recipe
from trainer.tasks.setting_checks import check_least

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

    from trainer.data.batch import OwnBatch
    from trainer.data.sample_rows import SampleRows
    from trainer.models.heads.question_answering import QuestionAnsweringModelOutput
    from trainer.tasks.columns import Columns
    from trainer.tasks.comparison import Comparison
    from trainer.tokenizer import Tokenizer


@dataclass(frozen=True)
class QuestionAnswering(Recipe):
    """Find the answer to a question in a context (SQuAD).

    A row is one sample. A long context is split into overlapping windows, which are the sequences
    of the sample. The target of a window is the start and the end of the answer, or the first token
    if the window does not contain the whole answer.
    """

    question: str = "question"
    """Column of the question."""
    context: str = "context"
    """Column of the text that contains the answer."""
    answer: str = "answers"
    """Column of the answers: {text: [...], answer_start: [...]}; training uses the first answer."""
    max_length: int = 384
    """The size of a window in tokens: the question, a part of the context, and special tokens."""
    stride: int = 128
    """The number of context tokens that neighboring windows share."""
    max_answer_length: int = 30
    """The maximum length of a predicted answer in tokens."""
    no_answer: bool | None = None
    """Whether questions may have no answer; null: true if a training row has none."""
    no_answer_threshold: float | None = None
    """If the score of having no answer exceeds the best answer's score by more than this threshold,
    no answer is predicted; null: tuned on the evaluation set, or 0 without an evaluation set.
    """
    n_best: int = 1
    """The number of answers in a prediction, with their scores."""
    align_to_words: bool = False
    """Whether predicted answers are extended to whole words."""
    slices: str | None = None
    """Column whose values split evaluations into slices with separate metrics, such as
    eval_<value>_f1.
    """

    fields: ClassVar[Mapping[str, Axis]] = {
        "starts": "sequence",
        "ends": "sequence",
        "offsets": "token",
    }
    predicted: ClassVar[Mapping[str, Axis]] = {
        "spans": "sequence",
        "scores": "sequence",
        "null_scores": "sequence",
        "normalizers": "sequence",
    }
    has_classes: ClassVar[bool] = False
    compares: ClassVar[str] = "answers"
    metric_for_best_model: ClassVar[str] = "f1"

    def __post_init__(self) -> None:
        check_least(self, 1, "max_length", "max_answer_length", "n_best")
        if not 0 <= self.stride < self.max_length:
            accepted = f"0 to {self.max_length - 1}, less than recipe.max_length"
            raise InputError(f"recipe.stride: found {self.stride}; accepted: {accepted}")

    @property
    def text_columns(self) -> tuple[str, ...]:
        return (self.question, self.context)

    @property
    def answer_columns(self) -> tuple[str, ...]:
        return (self.answer,)

    @property
    def head(self) -> Head:
        return Head("question_answering", {"num_labels": 2})

    @property
    def label_rule(self) -> str:
        return f"'{self.answer}': a part of '{self.context}'" + ", or none" * bool(self.no_answer)

    def learn(self, rows: "Dataset", *held_out: "Dataset") -> Self:
        if self.no_answer is not None:
            return self
        return replace(self, no_answer=self._rows.any_without_answer(rows))

    @property
    def _rows(self) -> AnsweredRows:
        names = (self.question, self.context, self.answer)
        return AnsweredRows(*names, self.max_length, self.stride, self.no_answer)

    def features(
        self, rows: Mapping[str, Sequence[Any]], tokenizer: "Tokenizer"
    ) -> dict[str, list[Any]]:
        return self._rows.windows(rows, tokenizer, words=self.align_to_words)

    def num_read_tokens(self, rows: Mapping[str, Sequence[Any]], tokenizer: "Tokenizer") -> int:
        """The number of tokens in all windows, counted without building the windows."""
        return self._rows.num_window_tokens(rows, tokenizer)

    def loss(
        self,
        outputs: "QuestionAnsweringModelOutput",
        batch: "OwnBatch",
        *,
        label_smoothing: float = 0.0,
    ) -> tuple["Tensor", "Tensor"]:
        """For each window: half the cross-entropy of the start plus half that of the end."""
        from trainer.tasks.answer_spans import position_loss

        lengths = batch.sequence_lengths
        starts, counts = position_loss(outputs.start_logits, batch["starts"], lengths)
        ends, _ = position_loss(outputs.end_logits, batch["ends"], lengths)
        return (starts + ends) / 2, counts

    def counts(self, batch: "OwnBatch") -> "Tensor":
        return (batch["starts"] < batch.sequence_lengths.to(batch["starts"].device)).float()

    def trained_on(self, batch: "OwnBatch") -> "Tensor | None":
        """The tokens of the answers."""
        from trainer.tasks.answer_spans import tokens_between

        if "starts" not in batch:
            return None
        return tokens_between(batch["starts"], batch["ends"], batch.sequence_lengths)

    def predictions(
        self, outputs: "QuestionAnsweringModelOutput", batch: "OwnBatch"
    ) -> dict[str, "Tensor"]:
        from trainer.tasks.answer_spans import best_spans

        return best_spans(
            outputs.start_logits,
            outputs.end_logits,
            batch.sequence_lengths,
            batch["offsets"],
            max_length=self.max_answer_length,
            number=self.n_best,
        )

    def comparison(self, columns: "Columns", rows: "SampleRows") -> "Comparison | None":
        if self.answer not in rows.column_names:
            return None
        contexts, cells = rows.column(self.context), rows.column(self.answer)
        try:
            return self._choice.comparison(columns, contexts, cells, self.answer)
        except AnswerError:  # rows for prediction may have answers that cannot be used
            return None

    @property
    def _choice(self) -> AnswerChoice:
        return AnswerChoice(bool(self.no_answer), self.no_answer_threshold or 0.0, self.n_best)

    def settle(self, columns: "Columns", rows: "SampleRows") -> Self:
        """The recipe; if no threshold is set, with the one that gives the best F1 on these rows."""
        if not self.no_answer or self.no_answer_threshold is not None:
            return self
        compared = self.comparison(columns, rows)
        if compared is None or not len(compared.predictions):
            return self
        return replace(
            self, no_answer_threshold=f1_threshold(compared.predictions, compared.references)
        )

    def answers(self, columns: "Columns", rows: "SampleRows") -> list[dict[str, Any]]:
        contexts = enumerate(rows.column(self.context))
        return [self._choice.answer(columns, number, context) for number, context in contexts]
