"""Losses over vectors of texts, as sums and counts; similarities are cosines.

There are N anchors with one positive each, and M hard negatives, which belong to one anchor each.
Vectors have the size D.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.data.batch import Batch, FlatBatch


@dataclass(frozen=True)
class Embedded:
    """The vectors of a batch, with the data that determines which of them are compared."""

    anchors: Tensor
    """[N, D]"""
    positives: Tensor
    """[N, D]"""
    negatives: Tensor
    """[M, D]"""
    owners: Tensor
    """[M], the anchor (0 to N - 1) to which each negative belongs."""
    groups: Tensor
    """[N], ascending; samples of different groups are never compared."""
    anchor_texts: Tensor
    """[N], text ids, which are equal for equal texts."""
    positive_texts: Tensor
    """[N]"""
    negative_texts: Tensor
    """[M]"""

    def cut(self, size: int) -> "Embedded":
        """A copy with the vectors truncated to `size`."""
        first = (x[:, :size] for x in (self.anchors, self.positives, self.negatives))
        anchors, positives, negatives = first
        return replace(self, anchors=anchors, positives=positives, negatives=negatives)


def embedded(embeddings: Tensor, batch: FlatBatch, group_size: int) -> Embedded:
    """The vectors [S, D] of a batch's sequences, split by role; `batch["texts"]` has the text ids.

    Groups are `group_size` consecutive samples; the last group may be smaller.
    """
    anchors, positives, negatives = map(batch.of_role, ("anchor", "positive", "negative"))
    texts = batch["texts"]
    device = embeddings.device
    return Embedded(
        anchors=embeddings[anchors],
        positives=embeddings[positives],
        negatives=embeddings[negatives],
        owners=batch.sequence_sample.to(device)[negatives],
        groups=torch.arange(len(anchors), device=device) // group_size,
        anchor_texts=texts[anchors],
        positive_texts=texts[positives],
        negative_texts=texts[negatives],
    )


def has_role(batch: Batch, name: str) -> bool:
    """Whether every sample of a flat batch has a sequence of this role.

    Reads only CPU tensors.
    """
    assert isinstance(batch, FlatBatch) and batch.roles is not None
    role = batch.role_names.index(name)
    first = (batch.roles[1:] == role) & (batch.roles[:-1] == role - 1)
    return int(first.sum()) == batch.num_samples


def cosines(first: Tensor, second: Tensor) -> Tensor:
    """[...], the cosines of vectors [..., D] and [..., D]."""
    return (F.normalize(first, dim=-1) * F.normalize(second, dim=-1)).sum(-1)


def in_batch(
    vectors: Embedded,
    *,
    temperature: float,
    margin: float = 0.0,
    symmetric: bool = False,
    guard: float | None = None,
) -> tuple[Tensor, Tensor]:
    """InfoNCE (van den Oord et al. 2018, equation 4) within groups: sums [N], counts [N].

    An anchor's candidates are the positives and the hard negatives of its group. `margin` is
    subtracted from the cosine of its own positive (Yang et al. 2019, "additive margin softmax").
    `symmetric` averages this loss with the one from positives to anchors (Radford et al. 2021).

    Probable false negatives are ignored: candidates with the text of the anchor or of its
    positive, positives of other anchors with the anchor's text, and candidates of other samples
    whose cosine exceeds the positive's by more than `guard` (Zhang et al. 2025, Qwen3 Embedding).
    """
    anchors, positives = (F.normalize(x, dim=-1) for x in (vectors.anchors, vectors.positives))
    candidates = torch.cat([positives, F.normalize(vectors.negatives, dim=-1)])
    similarities = anchors @ candidates.T
    counted = _counted(vectors, similarities.detach(), guard)
    sums = _cross_entropy(similarities, counted, temperature, margin)
    if symmetric:
        number = len(anchors)
        back = similarities[:, :number].T
        counted = _counted_backwards(vectors, back.detach(), guard)
        sums = (sums + _cross_entropy(back, counted, temperature, margin)) / 2
    return sums, torch.ones_like(sums)


def triplet(vectors: Embedded, *, margin: float) -> tuple[Tensor, Tensor]:
    """max(0, margin - cos(anchor, positive) + cos(anchor, negative)): sums [M], counts [M].

    As in FaceNet (Schroff et al. 2015), with 1 - cosine as the distance.
    """
    anchors = vectors.anchors[vectors.owners]
    near = cosines(anchors, vectors.positives[vectors.owners])
    losses = F.relu(margin - near + cosines(anchors, vectors.negatives))
    return losses, torch.ones_like(losses)


def cosine_error(vectors: Embedded, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Squared error between cosines and scores [N]: sums [N], counts [N]."""
    losses = (cosines(vectors.anchors, vectors.positives) - scores).square()
    return losses, torch.ones_like(losses)


def cosent(
    vectors: Embedded, scores: Tensor, *, temperature: float, group_size: int
) -> tuple[Tensor, Tensor]:
    """CoSENT (Su 2022): pairs with higher scores should have higher cosines. Sums [N], counts [N].

    A group's loss is log(1 + sum of exp((cos_j - cos_i) / temperature) over the pairs of samples
    with score_i > score_j). The loss of a group counts once for each of its samples.
    """
    found = cosines(vectors.anchors, vectors.positives)
    column = torch.arange(len(found), device=found.device) % group_size
    cells = (vectors.groups, column)
    shape = (int(-(-len(found) // group_size)), group_size)
    grid = found.new_zeros(shape).index_put(cells, found)
    wanted = scores.new_full(shape, torch.nan).index_put(cells, scores)  # nan > x is false
    differences = (grid.unsqueeze(1) - grid.unsqueeze(2)) / temperature
    ordered = wanted.unsqueeze(2) > wanted.unsqueeze(1)
    exponents = differences.masked_fill(~ordered, -torch.inf).flatten(1)
    losses = torch.cat([exponents.new_zeros(len(grid), 1), exponents], 1).logsumexp(1)
    sums = losses[vectors.groups]
    return sums, torch.ones_like(sums)


def _cross_entropy(
    similarities: Tensor, counted: Tensor, temperature: float, margin: float
) -> Tensor:
    """[N], the cross-entropy of cosines [N, C]; the correct candidates are on the diagonal."""
    diagonal = torch.eye(*similarities.shape, dtype=torch.bool, device=similarities.device)
    logits = (similarities - margin * diagonal.to(similarities.dtype)) / temperature
    logits = logits.masked_fill(~counted, -torch.inf)
    return logits.logsumexp(1) - logits.diagonal()


def _counted(vectors: Embedded, similarities: Tensor, guard: float | None) -> Tensor:
    """[N, N + M] bool: the candidates of each anchor, including its own positive and negatives."""
    number = len(vectors.anchors)
    owners = torch.cat([torch.arange(number, device=vectors.owners.device), vectors.owners])
    texts = torch.cat([vectors.positive_texts, vectors.negative_texts])
    own, same_group = _own(owners, number), _equal(vectors.groups, vectors.groups[owners])
    false_negatives = _equal(vectors.anchor_texts, texts) | _equal(vectors.positive_texts, texts)
    same_anchor = _equal(vectors.anchor_texts, vectors.anchor_texts[owners])
    false_negatives[:, :number] |= same_anchor[:, :number]
    if guard is not None:
        false_negatives |= similarities > similarities.diagonal().unsqueeze(1) + guard
    return own | (same_group & ~false_negatives)


def _counted_backwards(vectors: Embedded, similarities: Tensor, guard: float | None) -> Tensor:
    """[N, N] bool: the anchors that each positive is compared with, including its own."""
    own = torch.eye(len(similarities), dtype=torch.bool, device=similarities.device)
    false_negatives = _equal(vectors.anchor_texts, vectors.anchor_texts)
    false_negatives = false_negatives | _equal(vectors.positive_texts, vectors.positive_texts)
    false_negatives = false_negatives | _equal(vectors.positive_texts, vectors.anchor_texts)
    if guard is not None:
        false_negatives = false_negatives | (
            similarities > similarities.diagonal().unsqueeze(1) + guard
        )
    return own | (_equal(vectors.groups, vectors.groups) & ~false_negatives)


def _own(owners: Tensor, number: int) -> Tensor:
    return _equal(torch.arange(number, device=owners.device), owners)


def _equal(rows: Tensor, columns: Tensor) -> Tensor:
    """[R, C] bool: whether the values [R] of rows equal the values [C] of columns."""
    return rows.unsqueeze(1) == columns.unsqueeze(0)
