"""Token classification: predicts a tag for each word, and spans of words, such as entities."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from trainer.data import tag_schemes as schemes
from trainer.data.tagged_rows import TaggedRows, column_in
from trainer.data.tagged_windows import tagged_windows
from trainer.errors import InputError
from trainer.tasks.label_config import labels_of_config, names_of_labels
from trainer.tasks.label_predictions import class_counts
from trainer.tasks.recipe import Axis, Head, Recipe
from trainer.tasks.setting_checks import check_choices, check_least

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

    from trainer.data.batch import Batch, OwnBatch, Samples
    from trainer.data.sample_rows import SampleRows
    from trainer.models.outputs import Outputs
    from trainer.tasks.columns import Columns
    from trainer.tasks.comparison import Comparison
    from trainer.tokenizer import Tokenizer

TEXTS = ("tokens", "words", "text", "data")
"""The usual columns of words or text; the first that exists is the default."""
LABELS = ("tags", "ner_tags", "labels", "label", "spans", "entities", "annotations")
"""The usual columns of tags or spans; the first that exists is the default."""
CHOICES = {
    "scheme": ("auto", *schemes.SCHEMES),
    "align": ("first", "all"),
    "misaligned": ("error", "expand"),
}


@dataclass(frozen=True)
class TokenClassification(Recipe):
    """Tag each word of a text, and find the spans that the tags form."""

    text: str | None = None
    """Column of lists of words, or of texts; null: the first of tokens, words, text and data."""
    label: str | None = None
    """Column of lists of tags, or of the spans of texts; null: the first of tags, ner_tags, labels,
    label, spans, entities and annotations.
    """
    scheme: str = "auto"
    """IO, BIO, BIOES, or none if tags are classes; auto: detected from tags, or BIO for spans."""
    labels: list[str] | None = None
    """Tags in the order of their ids; null: those of the training rows."""
    repair: bool = False
    """Whether to repair tags that break the scheme (by the rules of seqeval) instead of refusing
    them."""
    align: str = "first"
    """Which tokens of a word are trained to predict its tag: first or all."""
    misaligned: str = "error"
    """Spans that end inside a word: error refuses them, expand extends them to whole words."""
    max_length: int = 128
    """Longer texts are split into windows of this many tokens; each word is predicted once."""
    stride: int | None = None
    """The largest number of tokens that neighboring windows share; null: a quarter of
    max_length."""
    crf: bool = False
    """Whether to add a CRF, which also scores transitions between tags, and predicts the best
    sequence of tags.
    """
    slices: str | None = None
    """Column whose values split evaluations into slices with separate metrics, such as
    eval_<value>_entity_f1.
    """

    fields: ClassVar[Mapping[str, Axis]] = {"labels": "token", "starts": "token", "ends": "token"}
    predicted: ClassVar[Mapping[str, Axis]] = dict.fromkeys(
        ("tags", "scores", "starts", "ends", "references"), "token"
    )
    measures: ClassVar[Mapping[str, bool]] = {"tag_accuracy": True}

    def __post_init__(self) -> None:
        check_choices(self, CHOICES)
        check_least(self, 1, "max_length")
        if not 0 <= self.shared_tokens < self.max_length:
            accepted = f"at least 0 and below {self.max_length}, recipe.max_length"
            raise InputError(f"recipe.stride: found {self.stride}; accepted: {accepted}")
        if self.crf and self.align == "all":
            found = "all with recipe.crf, whose chain has one token per word"
            raise InputError(f"recipe.align: found {found}; accepted: first")
        if self.labels is not None and len(set(self.labels)) < len(self.labels):
            raise InputError("recipe.labels: a tag occurs twice")

    @property
    def shared_tokens(self) -> int:
        """The maximum number of tokens that neighboring windows share."""
        return self.max_length // 4 if self.stride is None else self.stride

    @property
    def metric_for_best_model(self) -> str:
        return "tag_accuracy" if self.scheme == "none" else "entity_f1"

    @property
    def compares(self) -> str:
        return "classes" if self.scheme == "none" else "spans"

    @property
    def usual_metrics(self) -> tuple[str, ...]:
        return () if self.scheme == "none" else ("entity_precision", "entity_recall", "entity_f1")

    @property
    def text_columns(self) -> tuple[str, ...]:
        return (self.text or TEXTS[0],)

    @property
    def answer_columns(self) -> tuple[str, ...]:
        return () if self.label is None else (self.label,)

    @property
    def has_classes(self) -> bool:
        return not self.crf

    @property
    def class_names(self) -> list[str] | None:
        return self.labels if self.scheme == "none" else None

    @classmethod
    def fields_of_config(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        labels = labels_of_config(config)
        return {"labels": labels, "scheme": schemes.scheme_or_none(labels)}

    def learn(self, rows: "Dataset", *held_out: "Dataset") -> "TokenClassification":
        tagged = self._tagged(rows.column_names)
        text, label = tagged.text, tagged.label
        found = replace(self, text=text, label=label)
        labelled = [rows, *(more for more in held_out if {text, label} <= set(more.column_names))]
        return replace(found, **tagged.learnt(labelled))

    def texts(self, rows: "Dataset") -> Iterator[str]:
        for cell in self._tagged(rows.column_names).inputs(rows):
            yield cell if isinstance(cell, str) else " ".join(cell)

    def _tagged(self, columns: Sequence[str] = ()) -> TaggedRows:
        """The reader of rows with these columns."""
        return TaggedRows(
            self.text or column_in(columns, TEXTS) or TEXTS[0],
            self.label or column_in(columns, LABELS) or LABELS[0],
            self.scheme,
            self.labels,
            repair=self.repair,
            expand=self.misaligned == "expand",
        )

    def features(
        self, rows: Mapping[str, Sequence[Any]], tokenizer: "Tokenizer"
    ) -> dict[str, list[Any]]:
        return tagged_windows(
            self._tagged(list(rows)),
            rows,
            tokenizer,
            max_length=self.max_length,
            stride=self.shared_tokens,
            all_pieces=self.align == "all",
        )

    def class_counts(self, samples: "Samples") -> dict[str, int]:
        return class_counts("single_label", self.labels, samples)

    @property
    def label_rule(self) -> str:
        kind = "classes" if self.scheme == "none" else self.scheme
        pieces = "its first piece" if self.align == "first" else "all of its pieces"
        return f"'{self.label}': a tag for each word ({kind}), learnt by {pieces}"

    @property
    def head(self) -> Head:
        return Head("token_classification" + "_crf" * self.crf, names_of_labels(self.labels))

    def loss(
        self, outputs: "Outputs", batch: "Batch", *, label_smoothing: float = 0.0
    ) -> tuple["Tensor", "Tensor"]:
        from trainer.tasks.losses import cross_entropy
        from trainer.tasks.tagged_words import chain_loss

        if self.crf:
            return chain_loss(outputs, batch)
        return cross_entropy(outputs.logits, batch["labels"], label_smoothing=label_smoothing)

    def counts(self, batch: "OwnBatch") -> "Tensor":
        return (batch["labels"] >= 0).float()

    def token_notes(self, batch: "Batch") -> "list[str | None] | None":
        from trainer.tasks.tagged_answers import tag_notes

        if "labels" not in batch or self.labels is None:
            return None
        return tag_notes(batch, self.labels)

    def predictions(self, outputs: "Outputs", batch: "Batch") -> dict[str, "Tensor"]:
        from trainer.tasks.tagged_words import tag_predictions

        return tag_predictions(outputs, batch, outputs.transitions.float() if self.crf else None)

    def measure(self, loss: float, columns: "Columns") -> dict[str, float]:
        from trainer.tasks.tagged_answers import tag_accuracy

        return {"tag_accuracy": tag_accuracy(columns)}

    def comparison(self, columns: "Columns", rows: "SampleRows") -> "Comparison | None":
        from trainer.tasks.tagged_answers import tag_comparison

        return tag_comparison(self._tagged(rows.column_names), columns, rows)

    def answers(self, columns: "Columns", rows: "SampleRows") -> list[dict[str, Any]]:
        from trainer.tasks.tagged_answers import tag_answers

        return tag_answers(self._tagged(rows.column_names), columns, rows)
