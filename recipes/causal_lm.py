"""Causal language modelling: raw text, cut into blocks of tokens that keep its documents apart."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from trainer.data.rows import text_column
from trainer.errors import InputError
from trainer.next_token import NextTokenRecipe
from trainer.recipe import Axis

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

    from trainer.data.batch import Batch
    from trainer.data.blocks import Blocks
    from trainer.tokenizer import Tokenizer


@dataclass(frozen=True)
class CausalLM(NextTokenRecipe):
    """Learn to go on with texts.

    A sample is a block of `max_length` tokens of the texts in their order. Where a block holds
    several texts, none sees another, and positions begin anew.
    """

    text: str = "text"
    """Column of the text; each row is a document, and the end-of-text token is put after it."""
    max_length: int = 1024
    """Tokens of a block."""
    stride: int = 0
    """Tokens that the rest of a cut document repeats, as context that is not learnt again."""

    fields: ClassVar[Mapping[str, Axis]] = {"context": "sequence"}

    def __post_init__(self) -> None:
        if self.max_length < 2:
            raise InputError(f"recipe.max_length: found {self.max_length}; accepted: 2 or more")
        if not 0 <= self.stride < self.max_length:
            accepted = f"0 to {self.max_length - 1}, less than recipe.max_length"
            raise InputError(f"recipe.stride: found {self.stride}; accepted: {accepted}")

    @property
    def blocks(self) -> "Blocks":
        from trainer.data.blocks import Blocks

        return Blocks(self.max_length, self.stride)

    def texts(self, rows: "Dataset") -> Iterable[str]:
        return text_column(rows, self.text, "recipe.text")

    def features(
        self, rows: Mapping[str, Sequence[Any]], tokenizer: "Tokenizer"
    ) -> dict[str, list[Any]]:
        ids = tokenizer(text_column(rows, self.text, "recipe.text"))["input_ids"]
        end = tokenizer.eos_token_id
        if end is not None:
            ids = [row if row[-1:] == [end] else [*row, end] for row in ids]
        return {"input_ids": ids}

    def labels(self, batch: "Batch") -> "Tensor":
        return _learnt_once(batch)


def _learnt_once(batch: Any) -> "Tensor":
    """[T], every token's own id but where it was learnt in the block before; kept in the batch."""
    from trainer.losses import IGNORED

    if "labels" not in batch:
        repeated = batch["context"].repeat_interleave(
            batch.sequence_lengths.to(batch.input_ids.device, non_blocking=True),
            output_size=batch.num_tokens,
        )
        known = batch.position_ids < repeated
        batch.fields["labels"] = batch.input_ids.masked_fill(known, IGNORED)
    return batch["labels"]
