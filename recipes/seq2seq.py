"""Sequence to sequence: learns to write a target text for a source text."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from trainer.data.rows import text_column
from trainer.data.source_targets import ROLES, SourceTargets
from trainer.tasks.recipe import Axis, Head
from trainer.tasks.setting_checks import check_least
from trainer.tasks.token_prediction import TokenPrediction

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor, nn

    from trainer.data.batch import Batch, OwnBatch
    from trainer.data.sample_rows import SampleRows
    from trainer.generation.settings import GenerationSettings
    from trainer.models.outputs import Outputs
    from trainer.tasks.columns import Columns
    from trainer.tasks.comparison import Comparison
    from trainer.tasks.losses import TokenLosses
    from trainer.tokenizer import Tokenizer


@dataclass(frozen=True)
class Seq2Seq(TokenPrediction):
    """Translate, summarize or rewrite: an encoder reads the source, a decoder writes the target.

    The loss is the mean over the tokens of the target, each predicted from the target's tokens
    before it (teacher forcing). `job=predict` generates the targets.
    """

    source: str = "source"
    """Column of the text to read."""
    target: str = "target"
    """Column of the text to write."""
    source_prefix: str = ""
    """The text to put before every source, such as "summarize: " for T5."""
    source_language: str | None = None
    """The code of the sources' language, for tokenizers that add a language code (mBART)."""
    target_language: str | None = None
    """The code of the targets' language; null: the one in the tokenizer's files."""
    max_source_length: int = 512
    """Longer sources are cut to this many tokens."""
    max_target_length: int = 128
    """Longer targets are cut to this many tokens, and generation stops there."""
    evaluate_texts: bool = False
    """Whether an evaluation also generates a text for each sample, for metrics such as BLEU."""
    num_beams: int = 1
    """The number of beams; 1: greedy decoding."""
    length_penalty: float = 1.0
    """For beam search: a value above 0 favors long texts."""
    early_stopping: bool | Literal["never"] = False
    """For beam search: whether to stop as soon as `num_beams` texts are finished; never: stop only
    when no better text is possible."""
    slices: str | None = None
    """Column whose values split evaluations into slices with separate metrics, such as
    eval_<value>_bleu.
    """

    fields: ClassVar[Mapping[str, Axis]] = {"has_target": "sample"}
    roles: ClassVar[tuple[str, ...]] = ROLES
    predicted: ClassVar[Mapping[str, Axis]] = {**TokenPrediction.predicted, "written": "sample"}

    def __post_init__(self) -> None:
        check_least(self, 2, "max_source_length", "max_target_length")
        check_least(self, 1, "num_beams")
        assert self.generation is not None  # checks the other settings

    @property
    def head(self) -> Head:
        return Head("seq2seq_lm")

    @property
    def generation(self) -> "GenerationSettings":
        """The generation settings of evaluations and predictions."""
        from trainer.generation.settings import GenerationSettings

        beams = {"length_penalty": self.length_penalty, "early_stopping": self.early_stopping}
        return GenerationSettings(
            max_new_tokens=self.max_target_length,
            num_beams=self.num_beams,
            **(beams if self.num_beams > 1 else {}),  # type: ignore[arg-type]
        )

    @property
    def text_columns(self) -> tuple[str, ...]:
        return (self.source,)

    @property
    def answer_columns(self) -> tuple[str, ...]:
        return (self.target,)

    @property
    def max_tokens(self) -> int:
        return max(self.max_source_length, self.max_target_length)

    @property
    def for_prediction(self) -> Self:
        return replace(self, evaluate_texts=True)

    @property
    def compares(self) -> str | None:
        return "texts" if self.evaluate_texts else None

    @property
    def _decoder(self) -> "list[Tokenizer]":
        """The tokenizer of the samples, in a list that is empty before `prepare`."""
        found: list[Tokenizer] = vars(self).setdefault("_tokenizers", [])
        return found

    def prepare(self, tokenizer: "Tokenizer") -> None:
        self._choose_languages(tokenizer)
        self._decoder[:] = [tokenizer]  # needed to decode generated texts

    def texts(self, rows: "Dataset") -> Iterable[str]:
        yield from text_column(rows, self.source, "recipe.source")
        yield from text_column(rows, self.target, "recipe.target")

    def features(
        self, rows: Mapping[str, Sequence[Any]], tokenizer: "Tokenizer"
    ) -> dict[str, list[Any]]:
        self._choose_languages(tokenizer)
        limits = self.max_source_length, self.max_target_length
        columns = SourceTargets(self.source, self.target, self.source_prefix, limits)
        return columns.features(rows, tokenizer)

    def token_losses(
        self, outputs: "Outputs", batch: "OwnBatch", label_smoothing: float
    ) -> "TokenLosses":
        from trainer.tasks.losses import next_token_loss

        targets = _targets(batch)
        return next_token_loss(outputs.projection, targets, label_smoothing=label_smoothing)

    def trained_on(self, batch: "Batch") -> "Tensor":
        import torch

        rows = batch.tokens_of_role("decoder")  # type: ignore[attr-defined]
        return torch.zeros(batch.num_tokens, dtype=torch.bool, device=rows.device).index_fill(
            0, rows, True
        )

    def by_sample(self, found: "TokenLosses", batch: "OwnBatch") -> dict[str, "Tensor"]:
        return found.by_sequence(batch.lengths_of_role("decoder"))

    def evaluated(self, model: "nn.Module", outputs: "Outputs", batch: "Batch") -> "Outputs":
        from trainer.generation.write_batch import written_tokens

        if self.evaluate_texts:
            outputs.written = written_tokens(model, batch, self.generation)
        return outputs

    def predictions(self, outputs: "Outputs", batch: "Batch") -> dict[str, "Tensor"]:
        found = super().predictions(outputs, batch) if self.has_loss(batch) else {}
        return {**found, "written": outputs.written} if self.evaluate_texts else found

    def comparison(self, columns: "Columns", rows: "SampleRows") -> "Comparison | None":
        from trainer.tasks.comparison import Comparison

        if "written" not in columns or not rows.known or self.target not in rows.column_names:
            return None
        return Comparison("texts", self._written(columns), list(rows.column(self.target)))

    def answers(self, columns: "Columns", rows: "SampleRows") -> list[dict[str, Any]]:
        if "written" in columns:
            return [{"prediction": text} for text in self._written(columns)]
        return super().answers(columns, rows)

    def _choose_languages(self, tokenizer: "Tokenizer") -> None:
        """Set the tokenizer's languages. Raises InputError for a code that it does not have."""
        if self.source_language is not None:
            tokenizer.src_lang = self.source_language
        if self.target_language is not None:
            tokenizer.tgt_lang = self.target_language

    def _written(self, columns: "Columns") -> list[str]:
        """The texts of the generated tokens, which are padded with negative numbers."""
        rows = (
            [token for token in row if token >= 0] for row in columns["written"].values.tolist()
        )
        return self._decoder[0].batch_decode(list(rows), skip_special_tokens=True)


def _targets(batch: "OwnBatch") -> "Tensor":
    """[t], the tokens of the batch's targets, cached in the batch."""
    if "targets" not in batch:
        batch.fields["targets"] = batch.input_ids[batch.tokens_of_role("decoder")]
    found: Tensor = batch["targets"]
    return found
