"""Losses over lists of documents, as sums and counts; each of N queries has one list.

There are S scores in total, list after list; `owners` [S] is the query (0 to N - 1) of each score.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.data.batch import Batch, FlatBatch
from trainer.models.packing import to_device


def ranking_loss(objective: str, logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """The loss of logits [S] and `batch["relevances"]` for an objective of recipe=reranking.

    Sums and counts are [S] for pointwise, and [N] for the others. They are computed in at least
    fp32.
    """
    assert isinstance(batch, FlatBatch)
    scores = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if objective == "pointwise":
        return pointwise(scores, batch["relevances"])
    by_name = {
        "pairwise": pairwise,
        "listnet": listnet,
        "lambda": lambda_loss,
        "margin_mse": margin_mse,
    }
    return by_name[objective](scores, batch["relevances"], batch.host_owners)


def pointwise(scores: Tensor, relevances: Tensor) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy of each score [S] with a relevance of 0 to 1: sums [S], counts [S]."""
    losses = F.binary_cross_entropy_with_logits(
        scores, relevances.to(scores.dtype), reduction="none"
    )
    return losses, torch.ones_like(losses)


def pairwise(scores: Tensor, relevances: Tensor, owners: Tensor) -> tuple[Tensor, Tensor]:
    """RankNet (Burges et al. 2005): each list's mean logistic loss over its ordered pairs.

    A pair is ordered if its documents differ in relevance. Returns sums [N] and counts [N]; a list
    without ordered pairs has the count 0.
    """
    grid, wanted, _ = _grids(scores, relevances, owners)
    ordered = wanted.unsqueeze(2) > wanted.unsqueeze(1)  # nan > x is false
    losses = F.softplus(grid.unsqueeze(1) - grid.unsqueeze(2)) * ordered
    pairs = ordered.sum((1, 2))
    return losses.sum((1, 2)) / pairs.clamp(min=1), (pairs > 0).to(scores.dtype)


def listnet(scores: Tensor, relevances: Tensor, owners: Tensor) -> tuple[Tensor, Tensor]:
    """ListNet (Cao et al. 2007): sums and counts [N] of a cross-entropy for each list.

    It compares the softmax of the scores with the softmax of the relevances, the target.
    """
    grid, wanted, is_filled = _grids(scores, relevances, owners)
    targets = wanted.masked_fill(~is_filled, -torch.inf).softmax(1)
    logs = grid.masked_fill(~is_filled, -torch.inf).log_softmax(1).masked_fill(~is_filled, 0.0)
    sums = -(targets * logs).sum(1)
    return sums, torch.ones_like(sums)


def lambda_loss(scores: Tensor, relevances: Tensor, owners: Tensor) -> tuple[Tensor, Tensor]:
    """Pairwise losses, weighted by the change in nDCG if the pair is swapped: sums, counts [N].

    This is LambdaRank as a loss (Wang et al. 2018, "The LambdaLoss Framework", section 4.2), with
    gains 2^relevance - 1 and logarithms of base 2. A list whose relevances are all equal has the
    count 0.
    """
    grid, wanted, is_filled = _grids(scores, relevances, owners)
    gains = torch.where(is_filled, torch.exp2(wanted.nan_to_num()) - 1, 0.0)
    ranks = _ranks(grid.detach().masked_fill(~is_filled, -torch.inf))
    discounts = 1 / torch.log2(ranks + 2)
    ordinals = torch.arange(gains.shape[1], device=gains.device, dtype=gains.dtype)
    best = (gains.sort(1, descending=True).values / torch.log2(ordinals + 2)).sum(1)
    changes = _differences(gains).abs() * _differences(discounts).abs()
    weights = changes / best.clamp(min=1e-9).view(-1, 1, 1)
    ordered = wanted.unsqueeze(2) > wanted.unsqueeze(1)
    losses = weights * F.softplus(grid.unsqueeze(1) - grid.unsqueeze(2)) * ordered
    return losses.sum((1, 2)), ordered.flatten(1).any(1).to(scores.dtype)


def margin_mse(scores: Tensor, teacher: Tensor, owners: Tensor) -> tuple[Tensor, Tensor]:
    """MarginMSE (Hofstätter et al. 2020), the squared error of margins: sums [N], counts [N].

    A margin is the first document's score minus another document's; a list's count is its number of
    margins. `teacher` [S] holds the teacher's scores, whose margins are the targets.
    """
    grid, wanted, is_filled = _grids(scores, teacher, owners)
    errors = (grid[:, :1] - grid) - (wanted[:, :1] - wanted)
    losses = errors.square().masked_fill(~is_filled, 0.0)
    return losses.sum(1), (is_filled.sum(1) - 1).to(scores.dtype)


def _grids(scores: Tensor, relevances: Tensor, owners: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, relevances (nan in empty cells), and the mask of filled cells: [N, longest]."""
    sizes = owners.bincount()
    starts = sizes.cumsum(0) - sizes
    columns = torch.arange(len(owners), device=owners.device) - starts[owners]
    cells = (to_device(owners, scores.device), to_device(columns, scores.device))
    shape = (len(sizes), int(sizes.max()))
    grid = scores.new_zeros(shape).index_put(cells, scores)
    wanted = scores.new_full(shape, torch.nan).index_put(cells, relevances.to(scores.dtype))
    return grid, wanted, ~wanted.isnan()


def _ranks(scores: Tensor) -> Tensor:
    """[N, L] for scores [N, L]: the rank of each in its row, from 0 for the greatest."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    ranks: Tensor = order.argsort(1).to(scores.dtype)
    return ranks


def _differences(x: Tensor) -> Tensor:
    """The differences [N, L, L] between all pairs in each row of x [N, L]."""
    return x.unsqueeze(2) - x.unsqueeze(1)
