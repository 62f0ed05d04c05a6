"""A Triton kernel for cross-entropy whose gradients overwrite the logits."""

import triton
import triton.language as tl


@triton.jit
def cross_entropy(
    LOGITS, TARGETS, LOSSES, RIGHT, row_stride, vocab_size, smoothing,
    IGNORED: tl.constexpr, BLOCK: tl.constexpr, DIFFERENTIATE: tl.constexpr,
):  # fmt: skip
    """LOGITS are [N, V]; TARGETS, LOSSES and RIGHT are [N]. Each program handles one row."""
    row = tl.program_id(0).to(tl.int64)
    target = tl.load(TARGETS + row)
    LOGITS += row * row_stride
    counts = target != IGNORED
    target = tl.where(counts, target, 0)
    is_valid = (target >= 0) & (target < vocab_size)
    score = tl.load(LOGITS + target, mask=is_valid, other=float("nan")).to(tl.float32)
    best = score
    total, sum_of_scores, better = 0.0, 0.0, 0
    for start in range(0, vocab_size, BLOCK):
        tokens = start + tl.arange(0, BLOCK)
        inside = tokens < vocab_size
        x = tl.load(LOGITS + tokens, mask=inside, other=float("-inf")).to(tl.float32)
        greatest = tl.maximum(best, tl.max(x, 0))
        total = total * tl.exp(best - greatest) + tl.sum(tl.exp(x - greatest), 0)
        best = greatest
        sum_of_scores += tl.sum(tl.where(inside, x, 0.0), 0)
        ahead = (x > score) | ((x == score) & (tokens < target))  # of equal scores, the first wins
        better += tl.sum(ahead.to(tl.int32), 0)
    log_total = best + tl.log(total)
    loss = log_total - score
    loss += smoothing * (score - sum_of_scores / vocab_size)
    tl.store(LOSSES + row, tl.where(counts, loss, 0.0))
    tl.store(RIGHT + row, (counts & (better == 0)).to(tl.uint8))
    if DIFFERENTIATE:
        for start in range(0, vocab_size, BLOCK):
            tokens = start + tl.arange(0, BLOCK)
            inside = tokens < vocab_size
            x = tl.load(LOGITS + tokens, mask=inside, other=float("-inf")).to(tl.float32)
            gradient = tl.exp(x - log_total) - smoothing / vocab_size
            gradient = tl.where(tokens == target, gradient - (1.0 - smoothing), gradient)
            gradient = tl.where(counts, gradient, 0.0)
            tl.store(LOGITS + tokens, gradient.to(LOGITS.dtype.element_ty), mask=inside)
