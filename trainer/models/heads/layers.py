"""The layers that heads consist of."""

import torch
from torch import Tensor, nn

from trainer.models.blocks.activations import ACTIVATIONS
from trainer.models.blocks.dropout import Dropout
from trainer.models.blocks.linear import Linear
from trainer.models.blocks.norms import LayerNorm
from trainer.models.config import ModelConfig


def classifier_dropout(config: ModelConfig) -> float:
    """The dropout rate before a classifier: the config's classifier or hidden dropout, else 0.1."""
    entries = ("classifier_dropout", "hidden_dropout_prob", "hidden_dropout")
    given = (config.known(name) for name in entries)
    return next((dropout for dropout in given if dropout is not None), 0.1)


class ClassificationHead(nn.Module):
    """dropout -> linear, over one vector per sequence; optionally after linear -> activation."""

    def __init__(
        self,
        hidden_size: int,
        num_labels: int,
        *,
        dropout: float,
        dense: str | None = None,
        bias: bool = True,
    ) -> None:
        """`dense` is the activation of the first linear layer; None: there is no such layer."""
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


class DenseClassificationHead(nn.Module):
    """dropout -> linear -> activation -> dropout -> linear, over one vector per sequence."""

    def __init__(
        self,
        hidden_size: int,
        num_labels: int,
        *,
        activation: str,
        dropout_before: float,
        dropout: float,
    ) -> None:
        super().__init__()
        self.dropout_before = Dropout(dropout_before)
        self.dense = Linear(hidden_size, hidden_size)
        self.activation = ACTIVATIONS[activation]
        self.dropout = Dropout(dropout)
        self.classifier = Linear(hidden_size, num_labels)

    def forward(self, first: Tensor, keys: Tensor | None = None) -> Tensor:
        """first [B, D], dropout keys [B] -> logits [B, num_labels]."""
        dense = self.activation(self.dense(self.dropout_before(first, keys)))
        return self.classifier(self.dropout(dense, keys))


def first_token_head(config: ModelConfig, activation: str = "tanh") -> DenseClassificationHead:
    """The classifier of RoBERTa-like families, whose two dropouts have the same rate."""
    dropout = classifier_dropout(config)
    return DenseClassificationHead(
        config.hidden_size,
        config.num_labels,
        activation=activation,
        dropout_before=dropout,
        dropout=dropout,
    )


FIRST_TOKEN_HEAD_KEYS = {"dense": "classifier.dense", "classifier": "classifier.out_proj"}


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
    """linear -> activation -> norm; multiplied by the output weights, the result gives the logits.

    The output weights are the token embeddings, or those of this head's layer `decoder`. A bias is
    added to the logits.
    """

    def __init__(
        self,
        hidden_size: int,
        vocab_size: int,
        *,
        activation: str,
        layer_norm_eps: float,
        inner_biases: bool = True,
        embedding_size: int | None = None,
        own_weight: bool = False,
    ) -> None:
        """`embedding_size` is the width of the token embeddings; None: `hidden_size`. With
        `own_weight` the output weights are not the token embeddings.
        """
        super().__init__()
        size = hidden_size if embedding_size is None else embedding_size
        self.dense = Linear(hidden_size, size, bias=inner_biases)
        self.activation = ACTIVATIONS[activation]
        self.norm = LayerNorm(size, eps=layer_norm_eps, bias=inner_biases)
        self.decoder = nn.Linear(size, vocab_size) if own_weight else None
        self.bias = None if own_weight else nn.Parameter(torch.zeros(vocab_size))

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens [T, D] -> [T, embedding size], to be multiplied by the output weights."""
        found: Tensor = self.norm(self.activation(self.dense(tokens)))
        return found


class Seq2SeqHead(nn.Module):
    """The output layer of an encoder-decoder: a scale, output weights and a fixed bias."""

    def __init__(
        self, hidden_size: int, vocab_size: int, *, own_weight: bool, bias: bool, scale: float = 1.0
    ) -> None:
        """Without `own_weight` the output weights are tied to the token embeddings."""
        super().__init__()
        weight = torch.empty(vocab_size, hidden_size)
        fixed = torch.zeros(1, vocab_size)
        self.weight = nn.Parameter(weight) if own_weight else None
        self.bias = nn.Parameter(fixed, requires_grad=False) if bias else None
        self.scale = scale
        self._biased: tuple[Tensor, int, bool] | None = None

    def forward(self, tokens: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """tokens [T, D], weight [V, D] -> two matrices whose product is the logits [T, V].

        A nonzero bias becomes an extra column of the weight.
        """
        if self.scale != 1:
            tokens = tokens * self.scale
        if self.bias is None or not self._is_biased():
            return tokens, weight
        ones = tokens.new_ones(len(tokens), 1)
        return torch.cat((tokens, ones), 1), torch.cat((weight, self.bias.T.to(weight)), 1)

    def _is_biased(self) -> bool:
        """Whether the bias is nonzero. Its values are read again only after it was changed."""
        bias, known = self.bias, self._biased
        assert bias is not None
        if bias.is_inference():  # such a tensor does not count its changes
            return bool(bias.any())
        if known is None or known[0] is not bias or known[1] != bias._version:
            known = self._biased = bias, bias._version, bool(bias.detach().any())
        return known[2]
