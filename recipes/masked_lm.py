"""Masked language modeling: predicts hidden tokens of raw text from the tokens around them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from trainer.data.rows import text_column
from trainer.errors import InputError
from trainer.tasks.recipe import Axis, Head
from trainer.tasks.setting_checks import check_choices, check_least
from trainer.tasks.token_prediction import TokenPrediction

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

    from trainer.data.batch import Batch, FlatBatch, OwnBatch
    from trainer.data.blocks import Blocks
    from trainer.models.outputs import Outputs
    from trainer.tasks.losses import TokenLosses
    from trainer.tokenizer import Tokenizer

UNITS = ("tokens", "words", "spans")
EVALUATION_SEED = 0
"""The masking seed of evaluations, which mask the same tokens in every run."""


@dataclass(frozen=True)
class MaskedLM(TokenPrediction):
    """Predict masked tokens of texts, as in BERT's pretraining.

    The masked tokens are a function of seed, epoch and sample. Every evaluation masks the same
    tokens, so that perplexities are comparable.
    """

    text: str = "text"
    """Column of the text; each row is a document."""
    max_length: int = 256
    """Tokens per sample."""
    whole_documents: bool = False
    """Whether a sample is a document, cut at max_length; otherwise texts are concatenated and cut
    into blocks of max_length tokens.
    """
    mask_probability: float = 0.15
    """Share of the tokens that are predicted."""
    unit: str = "tokens"
    """The unit of masking: tokens, whole words, or spans of up to ten words."""
    masked_share: float = 0.8
    """Share of the predicted tokens that become the mask token."""
    random_share: float = 0.1
    """Share of the predicted tokens that become random tokens; the rest are unchanged."""
    slices: str | None = None
    """Column whose values split evaluations into slices with separate metrics, such as
    eval_<value>_loss.
    """

    fields: ClassVar[Mapping[str, Axis]] = {"kinds": "token", "context": "sequence"}

    def __post_init__(self) -> None:
        check_least(self, 2, "max_length")
        check_choices(self, {"unit": UNITS})
        if not 0 < self.mask_probability <= 1:
            share = self.mask_probability
            raise InputError(f"recipe.mask_probability: found {share}; accepted: above 0, up to 1")
        shares = (self.masked_share, self.random_share)
        if min(shares) < 0 or sum(shares) > 1:
            accepted = "accepted: 0 or more each, and no more than 1 together"
            raise InputError(f"recipe.masked_share, random_share: found {shares}; {accepted}")

    @property
    def head(self) -> Head:
        return Head("masked_lm")

    @property
    def blocks(self) -> "Blocks | None":
        from trainer.data.blocks import Blocks

        return None if self.whole_documents else Blocks(self.max_length)

    def texts(self, rows: "Dataset") -> Iterable[str]:
        return text_column(rows, self.text, "recipe.text")

    def prepare(self, tokenizer: "Tokenizer") -> None:
        """Check the tokenizer. Raises InputError if it has no mask token."""
        if tokenizer.mask_token_id is None:
            raise InputError(
                "tokenizer: has no mask token; accepted: that of an encoder, such as BERT's"
            )

    def features(
        self, rows: Mapping[str, Sequence[Any]], tokenizer: "Tokenizer"
    ) -> dict[str, list[Any]]:
        from trainer.data.token_kinds import kinds_of

        encoded = tokenizer(
            text_column(rows, self.text, "recipe.text"),
            truncation=self.whole_documents,
            max_length=self.max_length if self.whole_documents else None,
            return_offsets_mapping=True,
            return_num_truncated_tokens=True,
        )
        columns = {"input_ids": encoded["input_ids"], "kinds": kinds_of(encoded.encodings)}
        if self.whole_documents:
            columns["num_truncated_tokens"] = encoded["num_truncated_tokens"]
            columns["context"] = [0 for _ in columns["input_ids"]]
        return columns

    def augment(
        self, batch: "FlatBatch", tokenizer: "Tokenizer", *, seed: int, epoch: int | None
    ) -> "FlatBatch":
        """The batch with masked tokens, and the field `labels` [T] with their original ids."""
        from trainer.data.masking import Masking, masked_batch

        return masked_batch(
            batch,
            Masking(self.mask_probability, self.unit, self.masked_share, self.random_share),
            tokenizer,
            seed=EVALUATION_SEED if epoch is None else seed,
            epoch=epoch,
        )

    def has_loss(self, batch: "Batch") -> bool:
        return "labels" in batch

    def trained_on(self, batch: "Batch") -> "Tensor":
        """The tokens that are predicted."""
        from trainer.tasks.losses import IGNORED

        predicted: Tensor = batch["labels"] != IGNORED
        return predicted

    def token_losses(
        self, outputs: "Outputs", batch: "OwnBatch", label_smoothing: float
    ) -> "TokenLosses":
        from trainer.tasks.losses import next_token_loss

        return next_token_loss(
            outputs.projection,
            batch["labels"],
            label_smoothing=label_smoothing,
            host_labels=batch.on_host.get("labels"),
        )
