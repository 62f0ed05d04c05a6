"""Losses over vectors of texts: values by hand, ignored false negatives, and splits."""

import math

import pytest
import torch
import torch.nn.functional as F

from trainer.tasks.embedding_losses import Embedded, cosent, cosine_error, in_batch, triplet


def vectors(number: int = 6, group_size: int = 6, negatives: int = 0, seed: int = 0) -> Embedded:
    """Random fp64 vectors; every anchor has `negatives` hard negatives and all texts differ."""
    torch.manual_seed(seed)
    owners = torch.arange(number).repeat_interleave(negatives)
    texts = torch.arange(2 * number + len(owners))
    draw = lambda rows: torch.randn(rows, 8, dtype=torch.float64)  # noqa: E731
    return Embedded(
        anchors=draw(number),
        positives=draw(number),
        negatives=draw(len(owners)),
        owners=owners,
        groups=torch.arange(number) // group_size,
        anchor_texts=texts[:number],
        positive_texts=texts[number : 2 * number],
        negative_texts=texts[2 * number :],
    )


def cosine_table(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return F.cosine_similarity(first[:, None], second[None], dim=-1)


@pytest.mark.parametrize("negatives", [0, 2])
@pytest.mark.parametrize("symmetric", [False, True])
def test_in_batch_is_the_cross_entropy_over_a_groups_candidates(
    negatives: int, symmetric: bool
) -> None:
    given = vectors(5, 3, negatives)  # a group of three and one of two
    sums, counts = in_batch(given, temperature=0.1, margin=0.2, symmetric=symmetric)
    assert counts.tolist() == [1.0] * 5
    for group in (torch.arange(3), torch.arange(3, 5)):
        own = torch.isin(given.owners, group)
        candidates = torch.cat([given.positives[group], given.negatives[own]])
        table = cosine_table(given.anchors[group], candidates)
        table[torch.arange(len(group)), torch.arange(len(group))] -= 0.2
        targets = torch.arange(len(group))
        expected = F.cross_entropy(table / 0.1, targets, reduction="none")
        if symmetric:
            back = table[:, : len(group)].T / 0.1
            expected = (expected + F.cross_entropy(back, targets, reduction="none")) / 2
        torch.testing.assert_close(sums[group], expected, rtol=1e-12, atol=0)


def test_groups_are_never_compared() -> None:
    whole = vectors(6, 3)
    sums, _ = in_batch(whole, temperature=0.1)
    changed = Embedded(**{**vars(whole), "positives": whole.positives.clone()})
    changed.positives[3:] = 7.0
    others, _ = in_batch(changed, temperature=0.1)
    assert torch.equal(sums[:3], others[:3]) and not torch.equal(sums[3:], others[3:])


@pytest.mark.parametrize("what", ["same positive", "same anchor", "anchor as a positive"])
def test_a_candidate_that_is_right_too_does_not_count(what: str) -> None:
    """Sample 1 equals sample 0 in one respect; for sample 0 only sample 2 is then a negative."""
    given = vectors(3, 3)
    match what:
        case "same positive":
            given.positive_texts[1] = given.positive_texts[0]
        case "same anchor":
            given.anchor_texts[1] = given.anchor_texts[0]
        case _:
            given.positive_texts[1] = given.anchor_texts[0]
    sums, _ = in_batch(given, temperature=0.1)
    table = cosine_table(given.anchors, given.positives)[0, [0, 2]] / 0.1
    assert sums[0].item() == pytest.approx((table.logsumexp(0) - table[0]).item(), rel=1e-12)


def test_a_candidate_closer_than_the_positive_is_ignored_with_a_guard() -> None:
    given = vectors(3, 3)
    given.positives[1] = given.anchors[0]  # a cosine of 1
    loose, _ = in_batch(given, temperature=0.1)
    guarded, _ = in_batch(given, temperature=0.1, guard=0.0)
    assert guarded[0] < loose[0]
    own = vectors(3, 3, negatives=1)
    own.negatives[0] = own.anchors[0]  # the user's hard negative
    sums = [in_batch(own, temperature=0.1, guard=guard)[0][0] for guard in (0.0, 2.0)]
    assert sums[0] > 5 and sums[0] <= sums[1]


def test_a_sample_alone_in_its_group_has_nothing_to_learn() -> None:
    given = vectors(1, 4)
    given.anchors.requires_grad_()
    sums, counts = in_batch(given, temperature=0.05)
    sums.sum().backward()
    assert sums.item() == 0 and counts.item() == 1
    assert given.anchors.grad is not None and not given.anchors.grad.any()


def test_triplet_and_cosine_by_hand() -> None:
    given = vectors(2, 1, negatives=2)
    near = F.cosine_similarity(given.anchors, given.positives)[given.owners]
    far = F.cosine_similarity(given.anchors[given.owners], given.negatives)
    sums, counts = triplet(given, margin=0.3)
    torch.testing.assert_close(sums, (0.3 - near + far).clamp(min=0))
    assert counts.tolist() == [1.0] * 4
    scores = torch.tensor([0.25, 1.0], dtype=torch.float64)
    sums, _ = cosine_error(given, scores)
    expected = (F.cosine_similarity(given.anchors, given.positives) - scores) ** 2
    torch.testing.assert_close(sums, expected)


def test_cosent_by_hand() -> None:
    given = vectors(5, 3)
    scores = torch.tensor([0.1, 0.9, 0.9, 0.4, 0.2], dtype=torch.float64)
    sums, counts = cosent(given, scores, temperature=0.05, group_size=3)
    cosines = F.cosine_similarity(given.anchors, given.positives).tolist()

    def loss(group: list[int]) -> float:
        pairs = [(i, j) for i in group for j in group if scores[i] > scores[j]]
        return math.log(1 + sum(math.exp((cosines[j] - cosines[i]) / 0.05) for i, j in pairs))

    expected = [loss([0, 1, 2])] * 3 + [loss([3, 4])] * 2
    assert sums.tolist() == pytest.approx(expected, rel=1e-12)
    assert counts.tolist() == [1.0] * 5


def test_vectors_are_cut_before_they_are_compared() -> None:
    given = vectors(3, 3, negatives=1)
    cut = given.cut(4)
    assert cut.anchors.shape == (3, 4) and cut.negatives.shape == (3, 4)
    names = ("anchors", "positives", "negatives")
    by_hand = Embedded(**{**vars(given), **{name: vars(given)[name][:, :4] for name in names}})
    expected = in_batch(by_hand, temperature=0.1)
    assert torch.equal(in_batch(cut, temperature=0.1)[0], expected[0])
