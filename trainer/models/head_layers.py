"""The layers of heads: what a family puts on its body for a task."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.dropout import Dropout
from trainer.models.encoder import ACTIVATIONS
from trainer.models.linear import Linear
from trainer.models.norms import LayerNorm


class ClassificationHead(nn.Module):
    """(linear -> activation ->) dropout -> linear, over one vector for each sequence."""

    def __init__(
        self,
        hidden_size: int,
        num_labels: int,
        *,
        dropout: float,
        dense: str | None = None,
        bias: bool = True,
    ) -> None:
        """`dense` is the activation of the first linear layer, where the family has one."""
        super().__init__()
        self.dense = Linear(hidden_size, hidden_size) if dense else None
        self.activation = ACTIVATIONS[dense] if dense else None
        self.dropout = Dropout(dropout)
        self.classifier = Linear(hidden_size, num_labels, bias=bias)

    def forward(self, pooled: Tensor, keys: Tensor | None = None) -> Tensor:
        """pooled [B, D], dropout keys [B] -> logits [B, num_labels]."""
        if self.dense is not None and self.activation is not None:
            pooled = self.activation(self.dense(pooled))
        return self.classifier(self.dropout(pooled, keys))


class TokenHead(nn.Module):
    """dropout -> linear, over every token."""

    def __init__(self, hidden_size: int, num_labels: int, *, dropout: float) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.classifier = Linear(hidden_size, num_labels)

    def forward(self, tokens: Tensor, keys: Tensor | None = None) -> Tensor:
        """tokens [T, D], dropout keys [T] -> logits [T, num_labels]."""
        return self.classifier(self.dropout(tokens, keys))


class MaskedLMHead(nn.Module):
    """linear -> activation -> norm -> a score for each word: its embedding's product, and a bias.

    The output weights are the input embeddings, handed to `forward`: nothing can come untied.
    """

    def __init__(
        self,
        hidden_size: int,
        vocab_size: int,
        *,
        activation: str,
        layer_norm_eps: float,
        inner_biases: bool = True,
    ) -> None:
        super().__init__()
        self.dense = Linear(hidden_size, hidden_size, bias=inner_biases)
        self.activation = ACTIVATIONS[activation]
        self.norm = LayerNorm(hidden_size, eps=layer_norm_eps, bias=inner_biases)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, tokens: Tensor, embeddings: Tensor) -> Tensor:
        """tokens [T, D], embeddings [vocab_size, D] -> logits [T, vocab_size]."""
        return F.linear(self.norm(self.activation(self.dense(tokens))), embeddings, self.bias)
