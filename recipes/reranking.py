"""Reranking: scores how well a document answers a query."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from trainer.data import document_lists, text_groups
from trainer.data.rows import text_column
from trainer.errors import AnswerError
from trainer.tasks.recipe import Axis, Head, Recipe
from trainer.tasks.setting_checks import check_choices, check_least, check_score_range
from trainer.tasks.text_pairs import encoded_groups

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

    from trainer.data.batch import Batch
    from trainer.data.sample_rows import SampleRows
    from trainer.models.heads.sequence_classification import SequenceClassifierOutput
    from trainer.tasks.columns import Columns
    from trainer.tasks.comparison import Comparison
    from trainer.tokenizer import Tokenizer

OBJECTIVES = ("pointwise", "pairwise", "listnet", "lambda", "margin_mse")
CHOICES = {"objective": OBJECTIVES, "activation": ("sigmoid", "none")}


@dataclass(frozen=True)
class Reranking(Recipe):
    """Score documents with a cross-encoder, which reads a query and a document together."""

    text: str = "text"
    """Column of the query."""
    text_pair: str = "text_pair"
    """Column of a document, or of a list of documents."""
    label: str = "label"
    """Column of the document's relevance, or of a list with one relevance per document."""
    negative: str = "negative"
    """Column of documents that do not answer the query, if rows have no relevances."""
    objective: str = "pointwise"
    """pointwise, pairwise (RankNet), listnet, lambda (nDCG), or margin_mse (a teacher's scores)."""
    score_range: list[float] = field(default_factory=lambda: [0.0, 1.0])
    """The lowest and the highest relevance; pointwise maps them to 0 and 1."""
    activation: str = "sigmoid"
    """The activation of scores in predictions: sigmoid or none."""
    max_length: int = 256
    """Longer pairs are cut to this many tokens."""
    slices: str | None = None
    """Column whose values split evaluations into slices with separate metrics, such as
    eval_<value>_ndcg_at_10.
    """

    fields: ClassVar[Mapping[str, Axis]] = {"relevances": "sequence", "queries": "sequence"}
    predicted: ClassVar[Mapping[str, Axis]] = {
        "scores": "sequence",
        "queries": "sequence",
        "references": "sequence",
    }
    has_classes: ClassVar[bool] = False
    compares: ClassVar[str] = "rankings"
    metric_for_best_model: ClassVar[str] = "ndcg_at_10"

    def __post_init__(self) -> None:
        check_choices(self, CHOICES)
        check_least(self, 1, "max_length")
        check_score_range(self.score_range)

    @property
    def text_columns(self) -> tuple[str, ...]:
        return (self.text, self.text_pair)

    @property
    def answer_columns(self) -> tuple[str, ...]:
        return (self.label, self.negative)

    @property
    def answer_fields(self) -> tuple[str, ...]:
        return ("relevances",)

    @property
    def head(self) -> Head:
        return Head("sequence_classification", {"num_labels": 1, "problem_type": "regression"})

    def learn(self, rows: "Dataset", *held_out: "Dataset") -> "Reranking":
        text_groups.refuse_missing(
            rows, {"recipe.text": self.text, "recipe.text_pair": self.text_pair}, self.objective
        )
        if self.negative not in rows.column_names:
            text_groups.refuse_missing(rows, {"recipe.label": self.label}, self.objective)
        return self

    def features(
        self, rows: Mapping[str, Sequence[Any]], tokenizer: "Tokenizer"
    ) -> dict[str, list[Any]]:
        queries = text_column(rows, self.text, "recipe.text")
        columns = document_lists.DocumentColumns(
            self.text_pair, self.label, self.negative, self.score_range,
            scaled=self.objective == "pointwise",
            least=1 if self.objective == "pointwise" else 2,
        )  # fmt: skip
        lists, relevances = columns.read(rows)
        if self.objective == "lambda":
            self._check_gains(relevances or ())
        found = encoded_groups(lists, tokenizer, self.max_length, first=queries)
        numbers = map(text_groups.text_hash, queries)
        found["queries"] = [[n] * len(texts) for n, texts in zip(numbers, lists, strict=True)]
        return found if relevances is None else {**found, "relevances": relevances}

    def _check_gains(self, relevances: Sequence[Sequence[float]]) -> None:
        """Raise AnswerError for a negative relevance, whose gain in nDCG would be negative."""
        for row, values in enumerate(relevances):
            if (least := min(values)) < 0:
                accepted = "accepted: 0 or more with recipe.objective=lambda"
                raise AnswerError(row, f"'{self.label}' is {least:g}; {accepted}")

    def loss(
        self, outputs: "SequenceClassifierOutput", batch: "Batch", *, label_smoothing: float = 0.0
    ) -> tuple["Tensor", "Tensor"]:
        from trainer.tasks.ranking_losses import ranking_loss

        assert outputs.logits is not None
        return ranking_loss(self.objective, outputs.logits.squeeze(-1), batch)

    def predictions(
        self, outputs: "SequenceClassifierOutput", batch: "Batch"
    ) -> dict[str, "Tensor"]:
        assert outputs.logits is not None
        scores = outputs.logits.float().squeeze(-1)
        scores = scores.sigmoid() if self.activation == "sigmoid" else scores
        found = {"scores": scores, "queries": batch["queries"]}
        return {**found, "references": batch["relevances"]} if "relevances" in batch else found

    def comparison(self, columns: "Columns", rows: "SampleRows") -> "Comparison | None":
        from trainer.tasks.retrieval import by_query

        if "references" not in columns:
            return None
        return by_query(*(columns[n].values for n in ("queries", "scores", "references")))

    def answers(self, columns: "Columns", rows: "SampleRows") -> list[dict[str, Any]]:
        from trainer.tasks.retrieval import document_scores

        return document_scores(columns)
