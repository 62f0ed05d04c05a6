"""Projection: hidden states and the output weights; logits only when somebody asks for them."""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.models.packing import Layout


@dataclass(eq=False)
class Projection:
    """What a causal language model ends in: logits that need not exist. T tokens in B sequences.

    `trainer.losses.next_token_loss` computes loss and gradients from it chunk by chunk. The weight
    is the parameter itself: under sharding it must stay gathered until the loss is computed, as
    the root module's parameters do.
    """

    hidden: Tensor
    """[T, D], after the last norm"""
    weight: Tensor
    """[vocab_size, D], perhaps the token embeddings"""
    layout: Layout
    with_grad: bool = field(default_factory=torch.is_grad_enabled)
    """Whether the forward pass was to be differentiated: the logits then are too"""
    known: tuple[Tensor, float, Any] | None = None
    """The last labels and smoothing that a loss was computed for, and the loss"""

    def logits(self) -> Tensor:
        """[B, L, vocab_size] before the softmax, zeros at pads; [T, vocab_size] in a flat call."""
        with torch.set_grad_enabled(self.with_grad):
            return self.layout.unpack(F.linear(self.hidden, self.weight.to(self.hidden.dtype)))

    def last(self) -> "Projection":
        """Of each sequence's last token alone: a flat one, B tokens in B sequences."""
        ones = torch.ones_like(self.layout.lengths)
        last = self.hidden[self.layout.last_tokens]
        return Projection(last, self.weight, Layout(ones, self.layout.device), self.with_grad)

    def next_tokens(self, labels: Tensor, nothing: int) -> Tensor:
        """[T], the label of the token after each; `nothing` after the last of each sequence.

        Labels are shaped as the call's input_ids; those of pads and of first tokens are not asked
        for, whatever they are.
        """
        following = self.layout.pack(labels).roll(-1)
        following[self.layout.last_tokens] = nothing
        return following
