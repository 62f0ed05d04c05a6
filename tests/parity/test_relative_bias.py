"""The relative position bias has the buckets of transformers' T5."""

import pytest
import torch
from transformers.models.t5.modeling_t5 import T5Attention

from trainer.models.blocks.relative_bias import RelativeBias


@pytest.mark.parametrize("bidirectional", [True, False])
def test_the_bias_is_t5s(bidirectional):
    bias = RelativeBias(3, 32, 128, bidirectional)
    distance = torch.arange(-300, 300)
    wanted = T5Attention._relative_position_bucket(distance, bidirectional, 32, 128)
    assert torch.equal(bias.buckets(distance), wanted)
    row = bias(5)
    assert row.shape == (3, 9)
    assert torch.equal(row[:, 4 + 3], bias.table.weight[wanted[300 + 3]])
