"""Log-probabilities of tokens and sequences, without holding the logits of all tokens.

Dimensions: T tokens, S sequences, D channels, a vocabulary of V tokens.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainer.models.blocks.autograd import AutogradContext
from trainer.models.blocks.cross_entropy import IGNORED
from trainer.models.blocks.softcap import cap_, slope_of
from trainer.models.heads.projection import Projection
from trainer.tasks.loss_on_gpu import supervised_rows

CHUNK = 1 << 25
"""The maximum number of logits in memory at a time, unless ROWS requires more."""
ROWS = 128
"""The minimum number of rows in a chunk, so that matrix products are efficient."""


def sequence_log_probs(
    projection: Projection, labels: Tensor, lengths: Tensor, *, host_labels: Tensor | None = None
) -> Tensor:
    """[S], the log-probability that a causal language model gives to each sequence's labels.

    It is the sum over the tokens with a label. Arguments are as for `token_log_probs`, with
    `lengths` [S] on the CPU (`batch.sequence_lengths`). Differentiable once, with respect to
    hidden states and weight.
    """
    by_token = token_log_probs(projection, labels, host_labels=host_labels)
    sequence = torch.arange(len(lengths)).repeat_interleave(lengths)
    sequence = sequence.to(by_token.device, non_blocking=True)
    return by_token.new_zeros(len(lengths)).index_add(0, sequence, by_token)


def token_log_probs(
    projection: Projection, labels: Tensor, *, host_labels: Tensor | None = None
) -> Tensor:
    """[T], the log-probability of each next token, in at least fp32; 0 for tokens without a label.

    `projection` is `outputs.projection` of a flat call. `labels` [T] are not shifted, and -100 for
    a token without a label; the label of a sequence's first token is ignored. The products with the
    output weights run in the dtype of the hidden states, in chunks of tokens; the backward pass
    recomputes the logits of each chunk. With `host_labels`, a copy of the labels on the CPU
    (`batch.on_host`), a GPU skips the rows without a label.
    """
    following = projection.next_tokens(labels.long(), IGNORED)
    hidden = projection.hidden
    rows = None
    if hidden.device.type == "cpu":
        rows = (following != IGNORED).nonzero().squeeze(1)
    elif host_labels is not None:
        rows = supervised_rows(projection.layout, host_labels)
    if rows is None:
        return _log_probs(hidden, projection, following)
    found = _log_probs(hidden[rows], projection, following[rows])
    return found.new_zeros(len(hidden)).index_copy(0, rows, found)


def _log_probs(hidden: Tensor, projection: Projection, targets: Tensor) -> Tensor:
    found: Tensor = _LogProbs.apply(  # type: ignore[no-untyped-call]
        hidden, projection.weight, targets, projection.cap
    )
    return found


class _LogProbs(torch.autograd.Function):
    """Log-probabilities [N] from hidden [N, D], weight [V, D], targets [N]; 0 for ignored ones."""

    @staticmethod
    def forward(
        ctx: AutogradContext, hidden: Tensor, weight: Tensor, targets: Tensor, cap: float | None
    ) -> Tensor:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        found = hidden.new_empty(len(hidden), dtype=wide)
        normalizers = torch.empty_like(found)
        with torch.autocast(hidden.device.type, enabled=False):
            narrow = weight.to(hidden.dtype)
            for rows in _chunks(hidden, weight):
                logits = cap_(F.linear(hidden[rows], narrow), cap)
                goals = targets[rows].clamp(min=0).unsqueeze(1)
                normalizers[rows] = _logsumexp(logits, wide)
                chosen = logits.gather(1, goals).squeeze(1).to(wide) - normalizers[rows]
                found[rows] = chosen.masked_fill(targets[rows] == IGNORED, 0.0)
        ctx.save_for_backward(hidden, weight, targets, normalizers)
        ctx.cap = cap
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: AutogradContext, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, normalizers = ctx.saved_tensors
        by_hidden, by_weight = ctx.needs_input_grad[:2]
        grad = grad.masked_fill(targets == IGNORED, 0.0)
        grad_hidden = torch.empty_like(hidden) if by_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=grad.dtype) if by_weight else None
        with torch.autocast(hidden.device.type, enabled=False):
            narrow = weight.to(hidden.dtype)
            for rows in _chunks(hidden, weight):
                logits = cap_(F.linear(hidden[rows], narrow), ctx.cap).to(grad.dtype)
                slope = None if ctx.cap is None else slope_of(logits, ctx.cap)
                scores = logits.sub_(normalizers[rows].unsqueeze(1)).exp_().neg_()
                goals = targets[rows].clamp(min=0).unsqueeze(1)
                scores.scatter_add_(1, goals, torch.ones_like(goals, dtype=scores.dtype))
                scores = scores.mul_(grad[rows].unsqueeze(1))
                scores = (scores if slope is None else scores.mul_(slope)).to(hidden.dtype)
                if grad_hidden is not None:
                    torch.mm(scores, narrow, out=grad_hidden[rows])
                if grad_weight is not None:
                    grad_weight += scores.T @ hidden[rows]
        if grad_weight is not None:
            grad_weight = grad_weight.to(weight.dtype)
        return grad_hidden, grad_weight, None, None


def _chunks(hidden: Tensor, weight: Tensor) -> Iterator[slice]:
    size = max(ROWS, CHUNK // len(weight))
    return (slice(start, start + size) for start in range(0, len(hidden), size))


def _logsumexp(logits: Tensor, dtype: torch.dtype) -> Tensor:
    """[N], the logsumexp of each row of logits [N, V], summed in `dtype`."""
    return torch.logsumexp(logits.to(dtype), dim=1)
