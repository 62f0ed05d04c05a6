"""Losses: sums over counts are torch's own means."""

import pytest
import torch
import torch.nn.functional as F

from trainer.losses import binary_cross_entropy, cross_entropy, mean_squared_error

LOGITS = torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.tensor([0, 3, -100, 1, 1, 2, -100])
WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 0.25], dtype=torch.float64)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_cross_entropy(smoothing: float, weights: torch.Tensor | None) -> None:
    sums, counts = cross_entropy(LOGITS, LABELS, label_smoothing=smoothing, class_weights=weights)
    expected = F.cross_entropy(LOGITS, LABELS, weight=weights, label_smoothing=smoothing)
    assert sums.shape == counts.shape == (7,)
    torch.testing.assert_close(sums.sum() / counts.sum(), expected, rtol=1e-12, atol=0)


def test_nothing_supervised_is_zero_over_zero_with_a_gradient() -> None:
    logits = LOGITS.clone().requires_grad_()
    sums, counts = cross_entropy(logits, torch.full((7,), -100))
    sums.sum().backward()
    assert sums.sum() == counts.sum() == 0 and torch.equal(logits.grad, torch.zeros_like(LOGITS))


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_binary_cross_entropy(weights: torch.Tensor | None) -> None:
    labels = (LOGITS > 0.3).to(torch.float32)
    sums, counts = binary_cross_entropy(LOGITS, labels, class_weights=weights)
    expected = F.binary_cross_entropy_with_logits(LOGITS, labels.double(), weight=weights)
    torch.testing.assert_close(sums.sum() / counts.sum(), expected, rtol=1e-12, atol=0)
    smoothed, _ = binary_cross_entropy(LOGITS, labels, label_smoothing=0.2)
    expected = F.binary_cross_entropy_with_logits(LOGITS, labels.double() * 0.8 + 0.1)
    torch.testing.assert_close(smoothed.sum() / counts.sum(), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("shape", [(7,), (7, 3)])
def test_mean_squared_error(shape: tuple[int, ...]) -> None:
    found, wanted = torch.randn(shape).double(), torch.randn(shape).double()
    sums, counts = mean_squared_error(found, wanted)
    torch.testing.assert_close(sums.sum() / counts.sum(), F.mse_loss(found, wanted))


def test_half_precision_logits_are_added_up_in_fp32() -> None:
    sums, _ = cross_entropy(LOGITS.bfloat16(), LABELS)
    assert sums.dtype == torch.float32
