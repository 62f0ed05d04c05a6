"""Causal language modeling on raw text, packed into blocks of tokens."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from trainer.data.rows import text_column
from trainer.errors import InputError
from trainer.tasks.recipe import Axis
from trainer.tasks.writing import Spans, WritingRecipe, first_halves

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

    from trainer.data.batch import Batch, FlatBatch, OwnBatch
    from trainer.data.blocks import Blocks
    from trainer.tokenizer import Tokenizer


@dataclass(frozen=True)
class CausalLM(WritingRecipe):
    """Learn to continue texts.

    The texts are joined in order and cut into blocks of `max_length` tokens; a block is a sample.
    Texts within a block do not attend to each other, and positions restart at each text.
    """

    text: str = "text"
    """Column of the text; each row is a document, and the end-of-text token is appended to it."""
    max_length: int = 1024
    """Tokens per block."""
    stride: int = 0
    """The number of tokens at the end of a block that the document's next block repeats as context,
    without a loss."""

    neftune: float = 0.0
    """The alpha of NEFTune (such as 5), which adds noise to embeddings in training; 0: no noise."""
    evaluate_texts: bool = False
    """Whether evaluations also generate text from the start of each block, for text metrics."""
    prompt_tokens: int = 32
    """The number of tokens of a block that form the prompt, at most half of the block's first
    text."""
    max_new_tokens: int = 64
    """The number of tokens to generate and compare with the text."""
    slices: str | None = None
    """Column whose values split evaluations into slices with separate metrics, such as
    eval_<value>_loss.
    """

    fields: ClassVar[Mapping[str, Axis]] = {"context": "sequence"}
    takes_tokens: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.max_length < 2:
            raise InputError(f"recipe.max_length: found {self.max_length}; accepted: 2 or more")
        if not 0 <= self.stride < self.max_length:
            accepted = f"0 to {self.max_length - 1}, less than recipe.max_length"
            raise InputError(f"recipe.stride: found {self.stride}; accepted: {accepted}")
        if self.prompt_tokens < 1:
            found = f"found {self.prompt_tokens}"
            raise InputError(f"recipe.prompt_tokens: {found}; accepted: 1 or more")
        self.check_writing()

    @property
    def blocks(self) -> "Blocks":
        from trainer.data.blocks import Blocks

        return Blocks(self.max_length, self.stride)

    def prepare(self, tokenizer: "Tokenizer") -> None:
        self.remember(tokenizer)

    def texts(self, rows: "Dataset") -> Iterable[str]:
        return text_column(rows, self.text, "recipe.text")

    def features(
        self, rows: Mapping[str, Sequence[Any]], tokenizer: "Tokenizer"
    ) -> dict[str, list[Any]]:
        texts = text_column(rows, self.text, "recipe.text")
        ids = tokenizer(texts, verbose=False)["input_ids"]  # long texts are cut into blocks
        end = tokenizer.eos_token_id
        if end is not None:
            ids = [row if row[-1:] == [end] else [*row, end] for row in ids]
        return {"input_ids": ids}

    def answer_spans(self, batch: "FlatBatch") -> Spans:
        return first_halves(batch, self.prompt_tokens, self.max_new_tokens)

    def labels(self, batch: "Batch") -> "Tensor":
        return _labels_of_new_tokens(batch)


def _labels_of_new_tokens(batch: "OwnBatch") -> "Tensor":
    """[T], token ids, or -100 for tokens repeated from the previous block; cached in the batch."""
    from trainer.tasks.losses import IGNORED

    if "labels" not in batch:
        repeated = batch["context"].repeat_interleave(
            batch.sequence_lengths.to(batch.input_ids.device, non_blocking=True),
            output_size=batch.num_tokens,
        )
        known = batch.position_ids < repeated
        batch.fields["labels"] = batch.input_ids.masked_fill(known, IGNORED)
    return batch["labels"]
