"""Linear-chain CRF: the exact likelihood of label sequences, best paths, and marginals.

Lafferty et al. 2001, "Conditional Random Fields". A chain's score is the sum of its labels' logits
and of the scores of its start, its transitions and its end. `transitions` [C + 2, C] holds the
score of label j after label i at [i, j], of starting with j at [C, j], and of ending with j at
[C + 1, j].

Logits of N chains are concatenated, [P, C]; `lengths` [N] are their lengths, which may be 0.
Pass `lengths` on the CPU to avoid a synchronization with the device. Everything is computed in at
least fp32.
"""

import torch
from torch import Tensor

from trainer.models.packing import to_device


def crf_loss(
    logits: Tensor, labels: Tensor, lengths: Tensor, transitions: Tensor
) -> tuple[Tensor, Tensor]:
    """The negative log-likelihood of each chain's labels [P], and its length: [N] each."""
    logits, transitions = _at_least_fp32(logits), _at_least_fp32(transitions)
    grid, inside = _padded(logits, lengths)
    scores = _path_scores(logits, labels, lengths, transitions)
    return _log_partition(grid, inside, transitions) - scores, to_device(lengths, logits.device).to(
        logits.dtype
    )


def best_paths(logits: Tensor, lengths: Tensor, transitions: Tensor) -> Tensor:
    """[P], the labels of each chain's most probable path (Viterbi); ties go to lower labels."""
    logits, transitions = _at_least_fp32(logits), _at_least_fp32(transitions)
    grid, inside = _padded(logits, lengths)
    pairs, start, end = _parts(transitions)
    score = start + grid[:, 0]
    previous_labels = []
    for step in range(1, grid.shape[1]):
        best, came_from = (score.unsqueeze(2) + pairs).max(1)
        score = torch.where(inside[:, step, None], best + grid[:, step], score)
        previous_labels.append(came_from)
    label = (score + end).argmax(1)
    path = [label]
    for step in range(len(previous_labels), 0, -1):
        previous = previous_labels[step - 1].gather(1, label.unsqueeze(1)).squeeze(1)
        label = torch.where(
            inside[:, step], previous, label
        )  # after a chain's end the label stays the same
        path.append(label)
    return torch.stack(path[::-1], 1)[inside]


def marginals(logits: Tensor, lengths: Tensor, transitions: Tensor) -> Tensor:
    """[P, C], the marginal probability of each label at each position (forward-backward)."""
    logits, transitions = _at_least_fp32(logits), _at_least_fp32(transitions)
    grid, inside = _padded(logits, lengths)
    pairs, _, end = _parts(transitions)
    forward = _forward(grid, inside, transitions)
    backward = [end.expand_as(grid[:, 0])]
    for step in range(grid.shape[1] - 1, 0, -1):
        after = (backward[-1] + grid[:, step]).unsqueeze(1)
        found = (pairs + after).logsumexp(2)
        backward.append(torch.where(inside[:, step, None], found, backward[-1]))
    found = torch.stack(forward, 1) + torch.stack(backward[::-1], 1)
    return found[inside].softmax(-1)


def _at_least_fp32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _parts(transitions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The scores of pairs [C, C], starts [C] and ends [C]."""
    return transitions[:-2], transitions[-2], transitions[-1]


def _padded(logits: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Logits as a grid [N, L, C], zeros after a chain's end, and a mask [N, L], True before it."""
    longest = max(1, int(lengths.max())) if len(lengths) else 1
    device = logits.device
    inside = torch.arange(longest, device=device) < to_device(lengths, device).unsqueeze(1)
    chains, starts = _chains(lengths), lengths.cumsum(0) - lengths
    places = torch.arange(len(chains), device=chains.device) - starts[chains]
    grid = logits.new_zeros(*inside.shape, logits.shape[1])
    return grid.index_put((to_device(chains, device), to_device(places, device)), logits), inside


def _chains(lengths: Tensor) -> Tensor:
    """[P], the chain of each position."""
    return torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)


def _forward(grid: Tensor, inside: Tensor, transitions: Tensor) -> list[Tensor]:
    """For each position, [N, C]: logsumexp of the scores of the paths that end in each label."""
    pairs, start, _ = _parts(transitions)
    sums = [start + grid[:, 0]]
    for step in range(1, grid.shape[1]):
        found = (sums[-1].unsqueeze(2) + pairs).logsumexp(1) + grid[:, step]
        sums.append(torch.where(inside[:, step, None], found, sums[-1]))
    return sums


def _log_partition(grid: Tensor, inside: Tensor, transitions: Tensor) -> Tensor:
    """[N], the logsumexp of the scores of all paths; 0 for an empty chain."""
    last = _forward(grid, inside, transitions)[-1]
    found = (last + transitions[-1]).logsumexp(1)
    return torch.where(inside[:, 0], found, torch.zeros_like(found))


def _path_scores(logits: Tensor, labels: Tensor, lengths: Tensor, transitions: Tensor) -> Tensor:
    """[N], the score of the path of labels [P]."""
    pairs, start, end = _parts(transitions)
    owner = to_device(_chains(lengths), logits.device)
    first = torch.ones_like(owner, dtype=torch.bool)
    first[1:] = owner[1:] != owner[:-1]
    last = first.roll(-1)
    scores = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    scores = scores + torch.where(first, start[labels], pairs[labels.roll(1), labels])
    scores = scores + torch.where(last, end[labels], torch.zeros_like(scores))
    return logits.new_zeros(len(lengths)).index_add(0, owner, scores)
