"""Encoding: the body's outputs as a head receives them."""

from dataclasses import dataclass

from torch import Tensor

from trainer.models.body import Encoded
from trainer.models.cache import KeyValueCache
from trainer.models.packing import Layout


@dataclass(frozen=True)
class Encoding:
    """A body's outputs: flat for the head, and in the input's shape for the caller."""

    encoded: Encoded
    layout: Layout
    token_keys: Tensor | None
    encoder_layout: Layout | None = None
    """In an encoder-decoder: the layout of the encoder's tokens, if this call ran the encoder"""
    cache: KeyValueCache | None = None
    """The cache returned to the caller"""

    @property
    def last_hidden_state(self) -> Tensor:
        return self.layout.unpack(self.encoded.tokens)

    @property
    def sequence_keys(self) -> Tensor | None:
        """[B], one dropout key per sequence: the key of its first token."""
        return None if self.token_keys is None else self.token_keys[self.layout.first_tokens]

    @property
    def traces(self) -> dict[str, tuple[Tensor, ...] | None]:
        """The hidden states and attentions of the layers; None for those not requested."""
        return {
            "hidden_states": self.encoded.hidden_states,
            "attentions": self.encoded.attentions,
        }
