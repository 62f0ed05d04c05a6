"""Label losses: focal loss and R-Drop by their papers' formulas."""

import pytest
import torch
import torch.nn.functional as F

from trainer.errors import InputError
from trainer.tasks.focal_loss import binary_focal_loss, focal_loss
from trainer.tasks.label_losses import LabelLoss

LOGITS = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
LABELS = torch.tensor([0, 3, 1, -100, 2, 2])
FLAGS = (LOGITS.flip(0) > 0).double()


def test_focal_loss_is_the_papers_formula() -> None:
    weights = torch.tensor([0.5, 2.0, 1.0, 0.0], dtype=torch.float64)
    sums, counts = focal_loss(LOGITS, LABELS, 2.0, class_weights=weights)
    for row, label in enumerate(LABELS.tolist()):
        if label < 0:
            assert sums[row] == counts[row] == 0
            continue
        p = LOGITS[row].softmax(-1)[label]
        wanted = -weights[label] * (1 - p) ** 2 * p.log()
        torch.testing.assert_close(sums[row], wanted, rtol=1e-12, atol=0)
        assert counts[row] == weights[label]


def test_binary_focal_loss_is_torchvisions() -> None:
    """The formula of torchvision.ops.sigmoid_focal_loss with alpha=-1."""
    sums, counts = binary_focal_loss(LOGITS, FLAGS, 1.5)
    p = LOGITS.sigmoid()
    plain = F.binary_cross_entropy_with_logits(LOGITS, FLAGS, reduction="none")
    p_t = p * FLAGS + (1 - p) * (1 - FLAGS)
    torch.testing.assert_close(sums, (plain * (1 - p_t) ** 1.5).sum(-1), rtol=1e-12, atol=0)
    assert counts.tolist() == [4.0] * 6


def test_focal_loss_has_a_finite_gradient_where_a_class_is_certain() -> None:
    for gamma in (0.5, 2.0):
        logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
        focal_loss(logits, torch.tensor([0, 0]), gamma)[0].sum().backward()
        assert logits.grad is not None and logits.grad.isfinite().all()


def test_without_gamma_it_is_the_plain_loss() -> None:
    plain = LabelLoss("single_label", list("abcd"), None)
    focal = LabelLoss("single_label", list("abcd"), None, focal_gamma=1e-9)
    torch.testing.assert_close(
        focal(LOGITS, LABELS)[0], plain(LOGITS, LABELS)[0], rtol=1e-7, atol=0
    )


@pytest.mark.parametrize("problem", ["single_label", "multi_label", "regression"])
def test_r_drop_is_its_authors_loss(problem: str) -> None:
    """0.5 * (CE1 + CE2) + alpha * (KL(P, Q) + KL(Q, P)) / 2, of two passes over each sample."""
    alpha, labels = 1.7, list("abcd")
    generator = torch.Generator().manual_seed(1)
    known = LABELS.clamp(min=0)
    logits = torch.randn(12, 4, dtype=torch.float64, generator=generator)
    first, second = logits[::2], logits[1::2]
    if problem == "single_label":
        p, q = first.softmax(-1), second.softmax(-1)
        plain = [F.cross_entropy(x, known, reduction="none") for x in (first, second)]
        apart = sum((a * (a / b).log()).sum(-1) for a, b in ((p, q), (q, p))) / 2
        targets: torch.Tensor = known
    elif problem == "multi_label":
        both = [torch.stack([x.sigmoid(), 1 - x.sigmoid()], -1) for x in (first, second)]
        losses = [
            F.binary_cross_entropy_with_logits(x, FLAGS, reduction="none") for x in (first, second)
        ]
        plain = [loss.sum(-1) for loss in losses]
        apart = sum((a * (a / b).log()).sum((-1, -2)) for a, b in (both, both[::-1])) / 2
        targets = FLAGS
    else:
        logits = logits[:, :1]
        first, second = logits[::2], logits[1::2]
        targets = torch.arange(6, dtype=torch.float64)
        plain = [(x.squeeze(-1) - targets).square() for x in (first, second)]
        apart = (first - second).square().squeeze(-1)
    loss = LabelLoss(problem, labels, None, r_drop=alpha)
    sums, counts = loss(logits, targets)
    torch.testing.assert_close(sums, sum(plain) / 2 + alpha * apart, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(counts.double(), loss.counts(targets).double())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"focal_gamma": -1.0}, "recipe.focal_gamma: found -1.0; accepted: 0 or more"),
        ({"r_drop": float("nan")}, "recipe.r_drop: found nan; accepted: 0 or more"),
        (
            {"problem": "regression", "focal_gamma": 2.0},
            "recipe.focal_gamma: found 2.0, and a regression has no classes; accepted: 0",
        ),
    ],
)
def test_options_that_make_no_loss_are_refused(options: dict, message: str) -> None:
    from recipes.sequence_classification import SequenceClassification

    with pytest.raises(InputError, match=message):
        SequenceClassification(**options)


def test_batches_change_for_r_drop_alone() -> None:
    """Collators and rows of token ids without a tokenizer need unchanged batches."""
    from recipes.sequence_classification import SequenceClassification

    assert not SequenceClassification(focal_gamma=2.0, adversarial=1.0).augments
    assert SequenceClassification(r_drop=1.0).augments
