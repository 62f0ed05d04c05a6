"""The router's load-balancing loss, separately for each sequence (Fedus et al., 2021, equation 4).

Dimensions: T tokens in B sequences, E experts, K experts per token.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from trainer.models.blocks.decoder import Decoder
from trainer.models.blocks.experts import MixtureOfExperts
from trainer.models.body import Encoded
from trainer.models.config import ModelConfig
from trainer.models.inputs import FlatInputs
from trainer.models.packing import Layout


class BalancedDecoder(Decoder):
    """A decoder with experts; it returns the load-balancing loss if the config enables it."""

    def __init__(self, config: ModelConfig, pooler: bool) -> None:
        super().__init__(config, pooler)
        self.balances = bool(config.output_router_logits)

    def forward(
        self, inputs: FlatInputs, hidden_states_wanted: bool, attentions_wanted: bool
    ) -> Encoded:
        wanted = self.balances and torch.is_grad_enabled() and inputs.cache is None
        blocks = [m for m in self.modules() if isinstance(m, MixtureOfExperts)] if wanted else []
        with _recorded(blocks):
            encoded = super().forward(inputs, hidden_states_wanted, attentions_wanted)
            if blocks:
                encoded.balance = balance_by_sequence(blocks, inputs.layout)
        return encoded


def balance_by_sequence(blocks: Sequence[MixtureOfExperts], layout: Layout) -> Tensor:
    """[B], transformers' load-balancing loss with each sequence as a separate batch.

    It is E times the sum of f x P over the experts. f is the share of (token, layer) pairs that
    chose an expert, and P is the router's mean probability of it. The smallest value is K, for an
    even load.
    """
    chosen: Tensor | None = None
    expected: Tensor | None = None
    for block in blocks:
        assert block.routed is not None
        probabilities, experts = block.routed
        ones = torch.zeros_like(probabilities).scatter(1, experts, 1.0)
        chosen = ones if chosen is None else chosen + ones
        expected = probabilities if expected is None else expected + probabilities
    assert chosen is not None and expected is not None
    pairs = (layout.lengths * len(blocks)).to(expected).unsqueeze(1)
    shares, means = (layout.to_grid(each).sum(1) / pairs for each in (chosen, expected))
    return chosen.shape[1] * (shares.detach() * means).sum(1)


@contextmanager
def _recorded(blocks: Sequence[MixtureOfExperts]) -> Iterator[None]:
    """A context in which blocks record the outputs of their routers.

    The context must not include the backward pass: it may run layers again, and recording would
    then keep their activations.
    """
    for block in blocks:
        block.records = True
    try:
        yield
    finally:
        for block in blocks:
            block.records, block.routed = False, None
