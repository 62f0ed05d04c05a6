"""Body: a model without its head, and its interface to the rest of the package."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainer.models.inputs import FlatInputs
from trainer.models.offloading import ActivationOffload
from trainer.models.packing import Layout


@dataclass
class Encoded:
    """The outputs of a body for a flat batch of T tokens in B sequences."""

    tokens: Tensor
    """[T, D]"""
    pooled: Tensor
    """[B, D], one vector for each sequence: the pooler's output, or the output of one token"""
    hidden_states: tuple[Tensor, ...] | None
    """The embeddings and the output of each layer, in the caller's shape [B, width, D]"""
    attentions: tuple[Tensor, ...] | None
    """The probabilities of each layer, in the caller's shape [B, heads, width, width]"""
    cross_attentions: tuple[Tensor, ...] | None = None
    """The cross-attention probabilities of each decoder layer, [B, heads, L, encoder's L]"""
    balance: Tensor | None = None
    """[B], the load-balancing loss of the routers, if the config enables it"""
    encoder: "Encoded | None" = None
    """The outputs of an encoder-decoder's encoder; None if the cache has its keys and values"""


class Trace:
    """Records the hidden states of a call; the next layer reads the recorded tensor."""

    def __init__(self, layout: Layout, wanted: bool) -> None:
        self._layout = layout
        self._recorded: list[Tensor] | None = [] if wanted else None

    def record(self, x: Tensor) -> Tensor:
        """Record x [T, D] if hidden states were requested. Returns the input of the next layer."""
        if self._recorded is None:
            return x
        recorded, x = self._layout.through_caller(x)
        self._recorded.append(recorded)
        return x

    @property
    def recorded(self) -> tuple[Tensor, ...] | None:
        """The recorded hidden states; None if they were not requested."""
        return None if self._recorded is None else tuple(self._recorded)


class Body(nn.Module, ABC):
    """A model without its head: embeddings, then layers.

    Sharding, adapters, freezing, layer-wise learning rates and gradient checkpointing rely on
    `embed` and `units` and on nothing else in a body's structure.
    """

    keeps_first_column = False
    """Whether a padded call's first column is pooled even if it is masked, as in transformers"""
    only_ids = True
    """Whether calls with `inputs_embeds` or 4-D masks are refused"""
    types_are_tokens = False
    """Whether token type ids are looked up in the embeddings of token ids, as in GPT-2"""
    pools_last_token = False
    """Whether a sequence is pooled at its last token"""
    logit_scale: float = 1.0
    """The factor by which a language model's logits are multiplied"""
    logit_cap: float | None = None
    """Soft cap c: logits x then become c tanh(x / c) (Gemma 2, 2024, section 2)"""
    keys_depend_on_length = False
    """Whether keys depend on the length of the text, so that a longer text needs new keys"""
    counts_gaps = False
    """Whether distances between tokens count the pads between them, as in transformers"""
    starts_from_last = False
    """Whether the decoder's input starts by default with the last target token, as in mBART"""
    pooler: nn.Module | None
    embeddings: nn.Module
    layers: nn.ModuleList

    def __init__(self) -> None:
        super().__init__()
        self.pooler = None
        self.gradient_checkpointing = False
        """Whether layers save only their inputs and are recomputed in the backward pass"""
        self.offload: ActivationOffload | None = None
        """Moves tensors saved for the backward pass to host memory; None: they are not moved"""

    @property
    def embed(self) -> nn.Module:
        """The embedding module, whose parameters come first."""
        return self.embeddings

    @property
    def units(self) -> list[tuple[str, nn.Module]]:
        """The layers in execution order, with their module names within the body."""
        return [(f"layers.{number}", layer) for number, layer in enumerate(self.layers)]

    @property
    def token_embeddings(self) -> nn.Embedding:
        """The embeddings [vocab_size, D] of token ids."""
        found = self.embed.token
        assert isinstance(found, nn.Embedding)
        return found

    def run_layer(self, layer: nn.Module, arguments: tuple[object, ...]) -> tuple[Tensor, Any]:
        """Call layer(x, ..., dropout keys, weights wanted).

        Returns the layer's output, and its attention probabilities if they are wanted.
        """
        trains = layer.training and torch.is_grad_enabled()
        recompute = self.gradient_checkpointing and trains
        if self.offload is None or not trains:
            return _run(layer, arguments, recompute)
        with self.offload.layer(layer, arguments):
            return _run(layer, arguments, recompute)

    @abstractmethod
    def forward(
        self, inputs: FlatInputs, hidden_states_wanted: bool, attentions_wanted: bool
    ) -> Encoded:
        """Run the embeddings and the layers over a flat batch."""


class ReadsOtherTokens(nn.Module):
    """A module within a decoder layer that processes the encoder's tokens, not the layer's input.

    It is called like a layer: the dropout keys of its tokens are the second to last argument.
    """


def _run(layer: nn.Module, arguments: tuple[object, ...], recompute: bool) -> tuple[Tensor, Any]:
    if not recompute:
        found: tuple[Tensor, Any] = layer(*arguments)
        return found
    # With dropout keys, masks are functions of the keys, so no RNG state needs to be saved.
    keep_state = arguments[-2] is None
    again: tuple[Tensor, Any] = checkpoint(
        layer, *arguments, use_reentrant=False, preserve_rng_state=keep_state
    )
    return again
