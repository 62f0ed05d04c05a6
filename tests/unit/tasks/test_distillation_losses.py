"""Distillation losses equal their formulas over the whole vocabulary, in any chunks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from trainer.errors import InputError
from trainer.models.heads.projection import Projection
from trainer.models.packing import Layout
from trainer.tasks import distillation_losses
from trainer.tasks.distillation_losses import (
    hidden_distance,
    soft_cross_entropy,
    token_divergence,
    top_log_probs,
)

LENGTHS = torch.tensor([4, 3])
VOCABULARY = 11


def projection(seed: int, width: int) -> Projection:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(7, width, dtype=torch.float64, generator=generator).requires_grad_()
    weight = torch.randn(VOCABULARY, width, dtype=torch.float64, generator=generator)
    return Projection(hidden, weight.requires_grad_(), Layout(LENGTHS, hidden.device))


def formula(kind: str, own: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    p, q = wanted.exp(), own.exp()
    if kind == "forward":
        return (p * (p / q).log()).sum(-1)
    if kind == "reverse":
        return (q * (q / p).log()).sum(-1)
    m = (p + q) / 2
    return ((p * (p / m).log()).sum(-1) + (q * (q / m).log()).sum(-1)) / 2


@pytest.mark.parametrize("kind", ["forward", "reverse", "js"])
@pytest.mark.parametrize(("chunk", "cap"), [(1 << 24, None), (2 * VOCABULARY, None), (22, 1.5)])
def test_all_tokens_give_the_formula_and_its_gradient(
    kind: str, chunk: int, cap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distillation_losses, "CHUNK", chunk)
    teacher, student = (replace(projection(n, width), cap=cap) for n, width in ((1, 5), (2, 3)))
    tokens, temperature = torch.tensor([0, 2, 3, 5]), 1.7
    with torch.no_grad():
        ids, log_probs = top_log_probs(teacher, 100, temperature)
    assert ids.shape == (7, VOCABULARY)
    found = token_divergence(
        student, ids, log_probs, tokens, kind=kind, temperature=temperature  # type: ignore[arg-type]
    )  # fmt: skip
    wanted = F.log_softmax(teacher.rows() / temperature, -1).detach()
    own = F.log_softmax(student.rows() / temperature, -1)
    expected = formula(kind, own, wanted)[tokens] * temperature**2
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    places = (student.hidden, student.weight)
    scales = torch.linspace(1, 2, len(tokens), dtype=torch.float64)
    ours = torch.autograd.grad((found * scales).sum(), places)
    theirs = torch.autograd.grad((expected * scales).sum(), places)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["forward", "reverse", "js"])
def test_fewer_tokens_give_less_and_never_a_negative_divergence(kind: str) -> None:
    teacher, student, tokens = projection(1, 5), projection(2, 3), torch.arange(7)
    found = []
    for count in (1, 4, 8, VOCABULARY):
        with torch.no_grad():
            ids, log_probs = top_log_probs(teacher, count, 1.0)
            found.append(
                token_divergence(
                    student, ids, log_probs, tokens, kind=kind, temperature=1.0  # type: ignore[arg-type]
                ).numpy()
            )  # fmt: skip
    assert (found[0] >= 0).all() and (np.diff(np.stack(found), axis=0) >= -1e-6).all()


@pytest.mark.parametrize("kind", ["forward", "reverse", "js"])
def test_a_teacher_may_have_more_rows_than_the_model(kind: str) -> None:
    """Models of one family pad their vocabulary to different sizes."""
    teacher, student = projection(1, 5), projection(2, 3)
    student = replace(student, weight=student.weight[:-3])
    with torch.no_grad():
        ids, log_probs = top_log_probs(teacher, VOCABULARY, 1.0)
    found = token_divergence(
        student, ids, log_probs, torch.arange(7), kind=kind, temperature=1.0  # type: ignore[arg-type]
    )  # fmt: skip
    wanted = F.softmax(teacher.rows(), -1).detach()
    wanted = torch.cat([wanted[:, :-3], wanted[:, -3:].sum(1, keepdim=True)], 1)
    own = F.pad(F.softmax(student.rows(), -1), (0, 1), value=1e-7)
    expected = formula(kind, own.log(), wanted.log())
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", ["forward", "reverse", "js"])
def test_more_tokens_of_a_larger_teacher_give_no_less(kind: str) -> None:
    """Also where there are as many of them as the model has, but not the same ones."""
    teacher, student = projection(1, 5), projection(2, 3)
    student = replace(student, weight=student.weight[:-3])
    found = []
    for count in (VOCABULARY - 4, VOCABULARY - 3, VOCABULARY - 2):
        with torch.no_grad():
            ids, log_probs = top_log_probs(teacher, count, 1.0)
        tokens = torch.arange(7)
        losses = token_divergence(
            student, ids, log_probs, tokens, kind=kind, temperature=1.0  # type: ignore[arg-type]
        )  # fmt: skip
        found.append(float(losses.detach().sum()))
    assert found == sorted(found)


def test_soft_targets_are_hintons() -> None:
    generator = torch.Generator().manual_seed(0)
    own, wanted = (torch.randn(4, 3, dtype=torch.float64, generator=generator) for _ in range(2))
    found = soft_cross_entropy(own, wanted, 2.0)
    expected = 4 * formula("forward", F.log_softmax(own / 2, -1), F.log_softmax(wanted / 2, -1))
    torch.testing.assert_close(found, expected)
    assert soft_cross_entropy(wanted, wanted, 2.0).abs().max() < 1e-12
    with pytest.raises(InputError, match="the teacher has 2 classes, the model 3"):
        soft_cross_entropy(own, wanted[:, :2], 2.0)


def test_hidden_states_are_compared_layer_by_layer() -> None:
    one = torch.tensor([[1.0, 0.0, 3.0, 0.0]])
    other = torch.tensor([[0.0, 2.0, 1.0, 0.0]])
    assert hidden_distance(one, other, 2).tolist() == [0.5]
    assert hidden_distance(one, one * 7, 2).tolist() == pytest.approx([0.0], abs=1e-6)
    with pytest.raises(InputError, match="the teacher's hidden states are 1 wide, the model's 2"):
        hidden_distance(one, other[:, :2], 2)
