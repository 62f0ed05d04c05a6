"""Projection: hidden states and output weights, from which logits are computed on demand."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.models.blocks.softcap import capped
from trainer.models.packing import Layout


class LazyLogits:
    """A field that may hold a `Projection`; the logits are computed on first access."""

    def __get__(self, outputs: Any, kind: type) -> Tensor | None:
        if outputs is None:
            return None  # the field's default
        found = vars(outputs)["_logits"]
        if isinstance(found, Projection):
            found = vars(outputs)["_logits"] = found.logits()
        return found

    def __set__(self, outputs: Any, value: "Tensor | Projection | None") -> None:
        vars(outputs)["_logits"] = value
        if isinstance(value, Projection):
            vars(outputs)["_projection"] = value


@dataclass(eq=False)
class Projection:
    """The hidden states and output weights whose product is the logits of T tokens in B sequences.

    `trainer.tasks.losses.next_token_loss` computes loss and gradients from them in chunks. The
    weight is the parameter itself: under sharding it must stay gathered until the loss is computed,
    as the root module's parameters do.
    """

    hidden: Tensor
    """[T, D], after the last norm"""
    weight: Tensor
    """[vocab_size, D], possibly the token embeddings"""
    layout: Layout
    bias: Tensor | None = None
    """[vocab_size], if the head has one"""
    with_grad: bool = field(default_factory=torch.is_grad_enabled)
    """Whether gradients were enabled in the forward pass; the logits then have gradients too"""
    shifts: bool = True
    """Whether the logits of a token predict the next token's label; False: its own label"""
    columns: int | Tensor | None = None
    """The columns of [B, L] that `logits` computes: the last n, or these indices; None: all"""
    cap: float | None = None
    """The soft cap c: logits x become c tanh(x / c)"""
    penalty: Tensor | None = None
    """[B], the amount that the loss adds for each labeled token of a sequence"""
    last_loss: tuple[Tensor, float, Any] | None = None
    """The labels and smoothing of the last computed loss, and that loss"""

    def logits(self) -> Tensor:
        """[B, L, vocab_size] before the softmax, zeros at pads; [T, vocab_size] in a flat call."""
        with torch.set_grad_enabled(self.with_grad):
            if self.columns is None or self.layout.width is None:
                return self.layout.unpack(self._logits_of(self.hidden))
            columns = slice(-self.columns, None) if isinstance(self.columns, int) else self.columns
            return self._logits_of(self.layout.unpack(self.hidden)[:, columns])

    def rows(self) -> Tensor:
        """[T, vocab_size], the logits of all tokens in flat order."""
        return self._logits_of(self.hidden)

    def _logits_of(self, hidden: Tensor) -> Tensor:
        return capped(_linear(hidden, self.weight, self.bias), self.cap)

    def last(self) -> "Projection":
        """The flat projection of each sequence's last token only: B tokens in B sequences."""
        ones = torch.ones_like(self.layout.lengths)
        last = self.hidden[self.layout.last_tokens]
        layout = Layout(ones, self.layout.device)
        return replace(self, hidden=last, layout=layout, columns=None, last_loss=None)

    def next_tokens(self, labels: Tensor, nothing: int) -> Tensor:
        """[T], the label of each token's successor; `nothing` for the last of each sequence.

        Labels have the shape of input_ids; those of pads and of first tokens are not read.
        Without `shifts`, returns each token's own label.
        """
        if not self.shifts:
            return self.layout.pack_labels(labels)
        return self.layout.successors(labels, nothing)


def _linear(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(hidden, weight.to(hidden.dtype), None if bias is None else bias.to(hidden))
