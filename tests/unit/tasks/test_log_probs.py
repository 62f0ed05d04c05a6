"""Log-probabilities of sequences: the plain formula's, with its gradients, in chunks."""

import pytest
import torch
from torch import Tensor

from trainer.models.blocks.softcap import capped
from trainer.models.heads.projection import Projection
from trainer.models.packing import Layout
from trainer.tasks import log_probs
from trainer.tasks.losses import sequence_log_probs, token_log_probs

LENGTHS = torch.tensor([5, 1, 7, 3])
WIDTH, WORDS = 6, 11


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_probs, "CHUNK", 2 * WORDS)
    monkeypatch.setattr(log_probs, "ROWS", 2)


def drawn() -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states [T, D], weight [V, D] and labels [T], some of them ignored."""
    generator = torch.Generator().manual_seed(0)
    tokens = int(LENGTHS.sum())
    hidden = torch.randn(tokens, WIDTH, generator=generator, dtype=torch.float64)
    weight = torch.randn(WORDS, WIDTH, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, WORDS, (tokens,), generator=generator)
    labels[torch.rand(tokens, generator=generator) < 0.3] = -100
    return hidden.requires_grad_(), weight.requires_grad_(), labels


def plain(hidden: Tensor, weight: Tensor, labels: Tensor, cap: float | None = None) -> Tensor:
    """[S], sequence by sequence from all logits."""
    found = []
    parts = zip(hidden.split(LENGTHS.tolist()), labels.split(LENGTHS.tolist()), strict=True)
    for states, wanted in parts:
        scores = capped(states @ weight.T, cap).log_softmax(-1)[:-1]
        wanted = wanted[1:]
        kept = wanted != -100
        found.append(scores[kept].gather(1, wanted[kept].unsqueeze(1)).sum())
    return torch.stack(found)


def projected(hidden: Tensor, weight: Tensor, cap: float | None = None) -> Projection:
    return Projection(hidden, weight, Layout(LENGTHS, hidden.device), cap=cap)


@pytest.mark.parametrize("cap", [None, 2.0])
def test_values_and_gradients_are_the_plain_formulas(cap: float | None) -> None:
    hidden, weight, labels = drawn()
    factors = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    wanted = plain(hidden, weight, labels, cap)
    expected = torch.autograd.grad((wanted * factors).sum(), (hidden, weight))
    found = sequence_log_probs(projected(hidden, weight, cap), labels, LENGTHS)
    gradients = torch.autograd.grad((found * factors).sum(), (hidden, weight))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    assert found[1] == 0.0  # a single token, after which nothing is predicted
    for ours, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_by_token() -> None:
    hidden, weight, labels = drawn()
    found = token_log_probs(projected(hidden, weight), labels)
    last = LENGTHS.cumsum(0) - 1
    following = labels.roll(-1)
    following[last] = -100
    assert torch.equal(found == 0, following == -100)
    summed = torch.stack([part.sum() for part in found.split(LENGTHS.tolist())])
    torch.testing.assert_close(summed, plain(hidden, weight, labels), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("without", ["", "hidden", "weight"])
def test_gradcheck(without: str) -> None:
    hidden, weight, labels = drawn()
    hidden.requires_grad_(without != "hidden")
    weight.requires_grad_(without != "weight")

    def function(hidden: Tensor, weight: Tensor) -> Tensor:
        return sequence_log_probs(projected(hidden, weight), labels, LENGTHS)

    assert torch.autograd.gradcheck(function, (hidden, weight))


def test_nothing_asked_for_and_narrow_types() -> None:
    hidden, weight, labels = drawn()
    nothing = sequence_log_probs(projected(hidden, weight), torch.full_like(labels, -100), LENGTHS)
    assert nothing.tolist() == [0.0] * 4
    nothing.sum().backward()
    assert weight.grad is not None and not weight.grad.any() and not hidden.grad.any()
    narrow = sequence_log_probs(projected(hidden.bfloat16(), weight.float()), labels, LENGTHS)
    assert narrow.dtype == torch.float32
    wanted = plain(hidden.bfloat16().double(), weight.bfloat16().double(), labels)
    torch.testing.assert_close(narrow.double(), wanted, rtol=0.02, atol=0.1)


def test_logits_of_a_chunk_are_all_that_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    linear = torch.nn.functional.linear

    def counted(*arguments: Tensor) -> Tensor:
        found = linear(*arguments)
        sizes.append(found.numel())
        return found

    monkeypatch.setattr(log_probs.F, "linear", counted)
    hidden, weight, labels = drawn()
    sequence_log_probs(projected(hidden, weight), labels, LENGTHS).sum().backward()
    assert max(sizes) <= 2 * WORDS and len(sizes) > 4
