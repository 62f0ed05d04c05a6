"""The CRF: likelihood, best path and marginals equal those of an enumeration of all paths."""

from itertools import product

import torch

from trainer.tasks.crf import best_paths, crf_loss, marginals


def chains(seed: int, classes: int = 3, lengths: tuple[int, ...] = (4, 1, 0, 5, 2)):
    generator = torch.Generator().manual_seed(seed)
    draw = {"generator": generator, "dtype": torch.float64}
    logits = torch.randn(sum(lengths), classes, **draw)
    labels = torch.randint(0, classes, (sum(lengths),), generator=generator)
    transitions = torch.randn(classes + 2, classes, **draw)
    return logits, labels, torch.tensor(lengths), transitions


def path_score(logits, path, transitions):
    score = transitions[-2, path[0]] + transitions[-1, path[-1]]
    score = score + sum(logits[place, label] for place, label in enumerate(path))
    return score + sum(transitions[one, other] for one, other in zip(path, path[1:], strict=False))


def brute_force(logits, labels, lengths, transitions):
    """The loss of each chain, the best labels, and the marginals of each position."""
    losses, best, shares = [], [], []
    for row, wanted in zip(
        logits.split(lengths.tolist()), labels.split(lengths.tolist()), strict=True
    ):
        if not len(row):
            losses.append(torch.zeros((), dtype=torch.float64))
            continue
        paths = list(product(range(row.shape[1]), repeat=len(row)))
        scores = torch.stack([path_score(row, path, transitions) for path in paths])
        losses.append(scores.logsumexp(0) - path_score(row, wanted.tolist(), transitions))
        best += paths[int(scores.argmax())]
        share = torch.zeros_like(row)
        for path, weight in zip(paths, scores.softmax(0), strict=True):
            for place, label in enumerate(path):
                share[place, label] += weight
        shares.append(share)
    return torch.stack(losses), torch.tensor(best), torch.cat(shares)


def test_loss_gradient_path_and_marginals_are_those_of_all_paths() -> None:
    for seed in range(3):
        logits, labels, lengths, transitions = chains(seed)
        inputs = [logits.requires_grad_(), transitions.requires_grad_()]
        losses, best, shares = brute_force(logits, labels, lengths, transitions)
        found, counts = crf_loss(logits, labels, lengths, transitions)
        torch.testing.assert_close(found, losses, rtol=1e-12, atol=1e-12)
        assert counts.tolist() == lengths.tolist()
        ours = torch.autograd.grad(found.sum(), inputs)
        theirs = torch.autograd.grad(losses.sum(), inputs)
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
        assert torch.equal(best_paths(logits, lengths, transitions), best)
        torch.testing.assert_close(
            marginals(logits, lengths, transitions), shares, rtol=1e-12, atol=1e-12
        )


def test_no_words_have_no_loss_and_no_path() -> None:
    logits, labels, lengths, transitions = chains(0, lengths=(0, 0))
    transitions.requires_grad_()
    losses, counts = crf_loss(logits, labels, lengths, transitions)
    assert losses.tolist() == counts.tolist() == [0.0, 0.0]
    (gradient,) = torch.autograd.grad(losses.sum(), transitions)
    assert not gradient.any()
    assert best_paths(logits, lengths, transitions).tolist() == []
    assert marginals(logits, lengths, transitions).shape == (0, 3)


def test_transitions_of_zero_are_a_softmax_of_each_place() -> None:
    logits, labels, lengths, transitions = chains(1)
    losses, _ = crf_loss(logits, labels, lengths, torch.zeros_like(transitions))
    alone = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    torch.testing.assert_close(losses.sum(), alone)
