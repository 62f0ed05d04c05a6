"""Sentence embedding: maps texts to vectors that are close if their texts have similar meanings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from trainer.data import text_groups
from trainer.tasks.embedding_settings import GROUPED, SCORED, check_rows, check_settings
from trainer.tasks.recipe import Axis, Head, Recipe
from trainer.tasks.text_pairs import encoded_groups

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor, nn

    from trainer.data.batch import Batch, Samples
    from trainer.data.sample_rows import SampleRows
    from trainer.models.heads.sentence_embedding import SentenceEmbeddingOutput
    from trainer.tasks.columns import Columns
    from trainer.tasks.comparison import Comparison
    from trainer.tasks.embedding_objective import EmbeddingObjective
    from trainer.tasks.processor import Processor, SampleContext
    from trainer.tokenizer import Tokenizer


@dataclass(frozen=True)
class SentenceEmbedding(Recipe):
    """Train vectors of texts on pairs, on triplets, or on pairs with scores."""

    text: str = "text"
    """Column of the anchor, such as a query; the only column that job=predict reads."""
    text_pair: str = "text_pair"
    """Column of the positive: the text that matches the anchor, or is compared with it."""
    negative: str = "negative"
    """Column of a text that does not match the anchor, or of a list of them; may be missing."""
    label: str = "label"
    """Column of the pair's score, if the objective or the evaluation needs one."""
    score_range: list[float] = field(default_factory=lambda: [0.0, 1.0])
    """The lowest and the highest score, which are mapped to cosines of 0 and 1."""
    objective: str = "in_batch"
    """in_batch (InfoNCE), triplet, cosine (squared error of scores) or cosent (order of scores)."""
    group_size: int = 0
    """The number of samples compared with each other; 0: 32 for in_batch and cosent, else 1."""
    texts_per_pass: int = 0
    """The number of texts per forward pass with gradient caching, for groups that do not fit in
    memory; 0: no gradient caching."""
    temperature: float = 0.05
    """Cosines are divided by this number (in_batch, cosent)."""
    margin: float | None = None
    """By how much the positive must be closer than negatives; null: 0 (in_batch), 0.5 (triplet)."""
    symmetric: bool = False
    """Whether positives are also matched against all anchors (in_batch)."""
    false_negative_margin: float | None = None
    """Ignore texts of other samples whose cosine with the anchor exceeds the positive's cosine by
    more than this (in_batch).
    """
    repeated_pairs: str = "refuse"
    """What to do with a pair that occurs in two training rows: refuse (an error), or allow."""
    matryoshka: list[int] = field(default_factory=list)
    """Sizes to which vectors may be truncated later; the loss is the sum of the losses at all of
    them."""
    matryoshka_weights: list[float] = field(default_factory=list)
    """Weight of the loss of each size; empty: 1 each."""
    pooling: str = "mean"
    """How token vectors are pooled: mean, first, last or weighted (by position)."""
    normalize: bool = True
    """Whether to scale vectors to length 1."""
    dimensions: int | None = None
    """Truncate the vectors of evaluations and predictions to this size; null: full size."""
    prompts: dict[str, str] = field(default_factory=dict)
    """Name -> text that is prepended to texts: {query: "query: ", document: "passage: "}."""
    prompt: str | None = None
    """The name of the prompt for job=predict and for texts with scores; null: none."""
    compare: str = "auto"
    """What evaluations measure: scores or retrieval; auto: depends on the objective."""
    max_length: int = 256
    """Longer texts are cut to this many tokens."""

    fields: ClassVar[Mapping[str, Axis]] = {"texts": "sequence", "scores": "sample"}
    predicted: ClassVar[Mapping[str, Axis]] = {
        "embeddings": "sequence",
        "texts": "sequence",
        "references": "sample",
    }
    roles: ClassVar[tuple[str, ...]] = text_groups.ROLES
    has_classes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.group_size == 0:
            object.__setattr__(self, "group_size", 32 if self.objective in GROUPED else 1)
        check_settings(self)

    @property
    def text_columns(self) -> tuple[str, ...]:
        return (self.text,)

    @property
    def answer_columns(self) -> tuple[str, ...]:
        return (self.text_pair, self.negative, self.label)

    @property
    def answer_fields(self) -> tuple[str, ...]:
        return ("scores",) if self.objective in SCORED else ("texts",)

    @property
    def compares(self) -> str:
        scores = self.compare == "scores" or (self.compare == "auto" and self.objective in SCORED)
        return "numbers" if scores else "rankings"

    @property
    def metric_for_best_model(self) -> str:
        return "spearman" if self.compares == "numbers" else "ndcg_at_10"

    @property
    def head(self) -> Head:
        config = {"embedding_pooling": self.pooling, "embedding_normalize": self.normalize}
        return Head("sentence_embedding", config)

    @cached_property
    def _columns(self) -> text_groups.TextColumns:
        scored = self.objective in SCORED or self.compares == "numbers"
        score, (least, most) = self.label if scored else None, self.score_range
        names = (self.text, self.text_pair, self.negative)
        return text_groups.TextColumns(*names, score, (least, most))

    def learn(self, rows: "Dataset", *held_out: "Dataset") -> "SentenceEmbedding":
        check_rows(self, rows, self._columns)
        return self

    def samples(
        self, rows: "Dataset", processor: "Processor | None", context: "SampleContext"
    ) -> "Samples":
        learns_pairs = self.objective not in SCORED and context.where == "dataset.train"
        if learns_pairs and self.repeated_pairs == "refuse":
            rows = text_groups.with_repeats(rows, self._columns)
        return context.tokenize(rows)

    def features(
        self, rows: Mapping[str, Sequence[Any]], tokenizer: "Tokenizer"
    ) -> dict[str, list[Any]]:
        text_groups.refuse_repeated(rows, self._columns)
        samples = self._columns.texts(rows)
        prompts = text_groups.TextPrompts(self.prompts, self.prompt, self._columns.score is None)
        found = encoded_groups([*map(prompts.before, samples)], tokenizer, self.max_length)
        found["roles"] = [[min(place, 2) for place, _ in enumerate(texts)] for texts in samples]
        found["texts"] = [[text_groups.text_hash(text) for text in texts] for texts in samples]
        scores = self._columns.scores(rows)
        return found if scores is None else {**found, "scores": scores}

    @property
    def _objective(self) -> "EmbeddingObjective":
        from trainer.tasks.embedding_objective import EmbeddingObjective

        return EmbeddingObjective(
            self.objective,
            group_size=self.group_size,
            temperature=self.temperature,
            margin=self.margin,
            symmetric=self.symmetric,
            guard=self.false_negative_margin,
            sizes=self.matryoshka,
            weights=self.matryoshka_weights,
        )

    def has_loss(self, batch: "Batch") -> bool:
        return self._objective.has_loss(batch)

    def loss(
        self, outputs: "SentenceEmbeddingOutput", batch: "Batch", *, label_smoothing: float = 0.0
    ) -> tuple["Tensor", "Tensor"]:
        assert outputs.embeddings is not None
        return self._objective.loss(outputs.embeddings, batch)

    def predictions(
        self, outputs: "SentenceEmbeddingOutput", batch: "Batch"
    ) -> dict[str, "Tensor"]:
        from trainer.tasks.embedding_objective import shortened

        assert outputs.embeddings is not None
        vectors = shortened(outputs.embeddings, self.dimensions, normalize=self.normalize)
        found = {"embeddings": vectors, "texts": batch["texts"]}
        return {**found, "references": batch["scores"]} if "scores" in batch else found

    def comparison(self, columns: "Columns", rows: "SampleRows") -> "Comparison | None":
        from trainer.tasks.comparison import Comparison
        from trainer.tasks.retrieval import retrieval, similarities

        embeddings = columns["embeddings"]
        if self.compares == "rankings":
            return retrieval(embeddings, columns["texts"])
        if "references" not in columns:
            return None
        return Comparison("numbers", similarities(embeddings), columns["references"].values)

    def answers(self, columns: "Columns", rows: "SampleRows") -> list[dict[str, Any]]:
        from trainer.tasks.retrieval import embedding_answers

        return embedding_answers(columns)

    def for_search(self, side: Literal["query", "document"]) -> "SentenceEmbedding":
        return replace(self, prompt=side if side in self.prompts else self.prompt)

    def write_files(self, directory: Path, model: "nn.Module") -> None:
        from trainer.interop.sentence_transformers import write_modules

        write_modules(
            directory,
            width=model.config.hidden_size,  # type: ignore[union-attr,arg-type]
            pooling=self.pooling,
            normalize=self.normalize,
            max_length=self.max_length,
            prompts=self.prompts,
            default_prompt=self.prompt,
        )
