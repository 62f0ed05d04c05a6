"""Training single tokens with LoRA: their rows of the embeddings and of untied output weights.

PEFT calls this `trainable_token_indices`. The trained rows replace those of the frozen matrix.

Dimensions: n trained tokens, D channels.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.errors import InputError
from trainer.models.heads.layers import Seq2SeqHead

ROWS = "token_rows"
"""The name of the parameter with the trained rows."""


class HasWeight(Protocol):
    """A module with a matrix [vocab_size, D]."""

    @property
    def weight(self) -> Tensor: ...


class TokenRows(nn.Module):
    """A module with a matrix [vocab_size, D] that is frozen except for the rows of some tokens.

    Modules are converted in place, so that their parameters keep their names.
    """

    weight: Tensor
    token_rows: nn.Parameter
    """[n, D], the trained rows"""
    token_ids: Tensor
    """[n], the token ids of these rows, without duplicates"""

    @property
    def effective_weight(self) -> Tensor:
        """[vocab_size, D], the matrix including the trained rows, with gradients for these rows."""
        return replaced(self.weight, self.token_rows, self.token_ids)


class EmbeddingWithRows(TokenRows, nn.Embedding):
    """Token embeddings with some trained rows."""

    slots: Tensor
    """[vocab_size], the index of each token's trained row; -1 if it has none"""

    def forward(self, input_ids: Tensor) -> Tensor:
        slots = self.slots[input_ids]
        trained = F.embedding(slots.clamp(min=0), self.token_rows)
        return torch.where((slots < 0).unsqueeze(-1), super().forward(input_ids), trained)


class OutputWithRows(TokenRows, nn.Linear):
    """The output weights of a language model with some trained rows."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.effective_weight, self.bias)


class Seq2SeqHeadWithRows(TokenRows, Seq2SeqHead):  # type: ignore[misc]
    """The output layer of an encoder-decoder with some trained rows."""


KINDS: Mapping[type[nn.Module], type[TokenRows]] = {
    Seq2SeqHead: Seq2SeqHeadWithRows,
    nn.Embedding: EmbeddingWithRows,
    nn.Linear: OutputWithRows,
}
PLAIN: Mapping[type[nn.Module], type[nn.Module]] = {
    EmbeddingWithRows: nn.Embedding,
    OutputWithRows: nn.Linear,
    Seq2SeqHeadWithRows: Seq2SeqHead,
}


def train_rows(module: nn.Module, token_ids: Sequence[int], where: str) -> None:
    """Train only these rows of a module's matrix.

    Raises InputError, with a message that starts with `where`, for ids outside the matrix.
    """
    weight = module.weight
    assert isinstance(weight, nn.Parameter)
    wrong = [number for number in token_ids if not 0 <= number < len(weight)]
    if wrong:
        accepted = f"accepted: token ids, 0 to {len(weight) - 1}"
        raise InputError(f"{where}: found {wrong[0]}; {accepted}")
    module.__class__ = KINDS[type(module)]  # type: ignore[assignment]
    ids = torch.tensor(token_ids, dtype=torch.long, device=weight.device)
    module.register_parameter(ROWS, nn.Parameter(weight.detach()[ids].clone()))
    module.register_buffer("token_ids", ids, persistent=False)
    if isinstance(module, EmbeddingWithRows):
        slots = torch.full((len(weight),), -1, device=weight.device)
        slots[ids] = torch.arange(len(ids), device=weight.device)
        module.register_buffer("slots", slots, persistent=False)


def restore_plain_module(module: TokenRows) -> None:
    """Copy the trained rows into the matrix and restore the plain module."""
    module.weight.data = module.effective_weight.detach()
    del module.token_rows, module.token_ids
    if isinstance(module, EmbeddingWithRows):
        del module.slots
    module.__class__ = PLAIN[type(module)]  # type: ignore[assignment]


def replaced(weight: Tensor, rows: Tensor, token_ids: Tensor) -> Tensor:
    """[vocab_size, D], a copy of `weight` with `rows` at `token_ids`."""
    return weight.index_copy(0, token_ids.to(weight.device), rows.to(weight))


def token_matrix(module: HasWeight) -> Tensor:
    """[vocab_size, D], the matrix that the model uses, including trained rows."""
    return module.effective_weight if isinstance(module, TokenRows) else module.weight


def modules_with_rows(model: nn.Module) -> dict[str, TokenRows]:
    """Module name -> module with trained rows."""
    return {name: m for name, m in model.named_modules() if isinstance(m, TokenRows)}
