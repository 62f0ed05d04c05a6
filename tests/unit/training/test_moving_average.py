"""The moving average of the weights."""

import pytest
import torch
from torch import nn

from trainer.training.freezing import trainable
from trainer.training.moving_average import ExponentialMovingAverage


def test_moving_average() -> None:
    layer = nn.Linear(3, 1, bias=False)
    ema = ExponentialMovingAverage(trainable(layer), 0.75)
    start = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight += 1
    ema.update()
    raw = layer.weight.detach().clone()
    with ema.applied():
        torch.testing.assert_close(layer.weight.detach(), start + 0.25)
    assert torch.equal(layer.weight.detach(), raw)
    with pytest.raises(ZeroDivisionError), ema.applied():
        raise ZeroDivisionError
    assert torch.equal(layer.weight.detach(), raw)
