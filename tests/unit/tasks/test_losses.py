"""Losses: sums over counts are torch's own means."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.errors import InputError
from trainer.models.heads.projection import Projection
from trainer.models.packing import Layout
from trainer.tasks.losses import (
    IGNORED,
    binary_cross_entropy,
    cross_entropy,
    mean_squared_error,
    next_token_loss,
)

LOGITS = torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.tensor([0, 3, -100, 1, 1, 2, -100])
WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 0.25], dtype=torch.float64)


@pytest.mark.parametrize(("weights", "smoothing"), [(None, 0.0), (None, 0.2), (WEIGHTS, 0.0)])
def test_cross_entropy(weights: torch.Tensor | None, smoothing: float) -> None:
    sums, counts = cross_entropy(LOGITS, LABELS, label_smoothing=smoothing, class_weights=weights)
    expected = F.cross_entropy(LOGITS, LABELS, weight=weights, label_smoothing=smoothing)
    assert sums.shape == counts.shape == (7,)
    torch.testing.assert_close(sums.sum() / counts.sum(), expected, rtol=1e-12, atol=0)


def test_weights_and_smoothing_weigh_each_sample_by_its_own_class() -> None:
    """The weighted mean of the smoothed losses; torch weighs the smoothing by class instead."""
    sums, counts = cross_entropy(LOGITS, LABELS, label_smoothing=0.2, class_weights=WEIGHTS)
    seen = LABELS != IGNORED
    each = F.cross_entropy(LOGITS[seen], LABELS[seen], label_smoothing=0.2, reduction="none")
    weights = WEIGHTS[LABELS[seen]]
    expected = (weights * each).sum() / weights.sum()
    torch.testing.assert_close(sums.sum() / counts.sum(), expected, rtol=1e-12, atol=0)


def test_balanced_weights_with_smoothing_do_not_favour_the_rare_class() -> None:
    """The best constant logits for 98 : 2 samples, balanced, give both classes one half.

    Torch's own combination gives the rare class 0.78.
    """
    labels = torch.tensor([0] * 98 + [1] * 2)
    weights = torch.tensor([100 / 2 / 98, 100 / 2 / 2], dtype=torch.float64)
    logits = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    rows = logits.expand(100, 2)
    sums, counts = cross_entropy(rows, labels, label_smoothing=0.1, class_weights=weights)
    (gradient,) = torch.autograd.grad(sums.sum() / counts.sum(), logits)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)


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


LENGTHS = torch.tensor([3, 400, 1, 200])


def projected(dtype: torch.dtype = torch.float64) -> tuple[Projection, Tensor]:
    """Four sequences of hidden states over 37 words, and labels that leave some tokens out."""
    torch.manual_seed(0)
    hidden = torch.randn(604, 16, dtype=dtype, requires_grad=True)
    weight = torch.randn(37, 16, dtype=dtype, requires_grad=True)
    labels = torch.randint(37, (604,)).masked_fill(torch.rand(604) < 0.3, IGNORED)
    return Projection(hidden, weight, Layout(LENGTHS, torch.device("cpu"))), labels


def successors(labels: Tensor) -> Tensor:
    """The target of each token, one sequence after the other."""
    parts = labels.split(LENGTHS.tolist())
    return torch.cat([F.pad(part[1:], (0, 1), value=IGNORED) for part in parts])


@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("chunk", [1, 1 << 24])
def test_next_token_loss_is_that_of_the_logits(
    smoothing: float, chunk: int, cap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Value, gradients, each token's loss, correct predictions; in one chunk and in several."""
    monkeypatch.setattr("trainer.tasks.losses.CHUNK", chunk)
    projection, labels = projected()
    projection = replace(projection, cap=cap)
    targets, logits = successors(labels), projection.logits()
    each = F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")
    wanted = torch.autograd.grad(each.sum() * 0.5, (projection.hidden, projection.weight))

    found = next_token_loss(projection, labels, label_smoothing=smoothing)
    gradients = torch.autograd.grad(found.sum * 0.5, (projection.hidden, projection.weight))
    torch.testing.assert_close(found.sum, each.sum(), rtol=1e-13, atol=0)
    torch.testing.assert_close(found.losses, each.detach(), rtol=1e-12, atol=1e-12)
    assert torch.equal(found.supervised, targets != IGNORED)
    assert torch.equal(found.correct, logits.argmax(-1) == targets)
    for gradient, reference in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-11, atol=1e-13)
    for name, sums in found.by_sequence(LENGTHS).items():
        parts = getattr(found, name).split(LENGTHS.tolist())
        torch.testing.assert_close(sums, torch.stack([part.sum() for part in parts]).double())


@pytest.mark.parametrize("frozen", ["hidden", "weight", "both", "no grad"])
def test_next_token_loss_differentiates_what_is_asked_for(frozen: str) -> None:
    projection, labels = projected()
    wanted = next_token_loss(projection, labels)
    wanted.sum.backward()
    expected = {"hidden": projection.hidden.grad, "weight": projection.weight.grad}
    projection, labels = projected()
    for name in expected:
        getattr(projection, name).requires_grad_(frozen not in (name, "both"))
    with torch.set_grad_enabled(frozen != "no grad"):
        found = next_token_loss(projection, labels)
    assert torch.equal(found.sum, wanted.sum)
    assert found.sum.requires_grad == (frozen in expected)
    if found.sum.requires_grad:
        found.sum.backward()
        other = "weight" if frozen == "hidden" else "hidden"
        assert torch.equal(getattr(projection, other).grad, expected[other])
        assert getattr(projection, frozen).grad is None


def test_next_token_loss_of_nothing_is_zero() -> None:
    projection, labels = projected()
    found = next_token_loss(projection, torch.full_like(labels, IGNORED))
    found.sum.backward()
    assert found.sum == 0 and found.count == 0 and not projection.hidden.grad.any()


def test_next_token_loss_in_bf16_keeps_fp32_sums() -> None:
    """The weight may be an fp32 master: its gradient is fp32, as exact as products in bf16."""
    exact, labels = projected()
    next_token_loss(exact, labels).sum.backward()
    weight = exact.weight.detach().float().requires_grad_()
    half = Projection(exact.hidden.detach().bfloat16().requires_grad_(), weight, exact.layout)
    found = next_token_loss(half, labels)
    found.sum.backward()
    assert found.sum.dtype == found.losses.dtype == weight.grad.dtype == torch.float32
    for gradient, reference in (
        (half.hidden.grad, exact.hidden.grad),
        (weight.grad, exact.weight.grad),
    ):
        assert (gradient - reference).norm() / reference.norm() < 0.02


def test_an_answer_is_kept_for_the_same_labels_alone() -> None:
    projection, labels = projected()
    found = next_token_loss(projection, labels)
    assert next_token_loss(projection, labels) is found
    assert next_token_loss(projection, labels, label_smoothing=0.1) is not found
    assert next_token_loss(projection, labels.clone()) is not found


@pytest.mark.parametrize(
    ("loss", "outputs", "labels", "said"),
    [
        (mean_squared_error, (4, 2), (4,), r"found shape \(4,\); accepted: \(4, 2\)"),
        (mean_squared_error, (4,), (4, 1), r"found shape \(4, 1\); accepted: \(4,\)"),
        (mean_squared_error, (1, 3), (4, 3), r"found shape \(4, 3\)"),
        (binary_cross_entropy, (4, 3), (4, 1), r"found shape \(4, 1\); accepted: \(4, 3\)"),
        (binary_cross_entropy, (4, 1), (4, 3), r"found shape \(4, 3\); accepted: \(4, 1\)"),
        (cross_entropy, (4, 3), (4, 1), r"found shape \(4, 1\) for logits \(4, 3\)"),
        (cross_entropy, (4,), (4,), r"for logits \(4,\); accepted: \[B\] for \[B, classes\]"),
        (cross_entropy, (1, 3), (4,), r"found shape \(4,\) for logits \(1, 3\)"),
    ],
)
def test_a_head_of_another_width_is_refused(
    loss: Any, outputs: tuple[int, ...], labels: tuple[int, ...], said: str
) -> None:
    kind = torch.int64 if loss is cross_entropy else torch.float32
    with pytest.raises(InputError, match=said):
        loss(torch.zeros(outputs), torch.zeros(labels, dtype=kind))


def test_classes_beyond_a_head_are_refused() -> None:
    with pytest.raises(InputError, match="labels: found 3; accepted: 0 to 2, as the head has 3"):
        cross_entropy(torch.zeros(2, 3), torch.tensor([0, 3]))
    with pytest.raises(InputError, match="labels: found -1; accepted: 0 to 2, .* and -100 for no"):
        cross_entropy(torch.zeros(3, 3), torch.tensor([0, -100, -1]))
    with pytest.raises(InputError, match=r"class_weights: found shape \(2,\); accepted: \(3,\)"):
        cross_entropy(torch.zeros(2, 3), torch.tensor([0, 1]), class_weights=torch.ones(2))
