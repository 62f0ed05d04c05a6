"""Triton kernels of attention over flat sequences, with the dropout masks of `blocks.dropout`.

A program handles a block of rows (queries) or of keys of one sequence and head. One hash holds the
dropout draws for two neighboring keys, so a program processes the even keys of each block first,
then the odd keys. This changes only the order of sums. Scores are multiplied by log2(e), so that
exp2 replaces exp.

Dimensions: T tokens, H query heads and K key heads of C channels.
"""

import triton
import triton.language as tl

VARYING = ("num_tokens", "left", "right")
"""Arguments that vary between batches. By default, Triton would compile separate kernels for values
that are 1 or multiples of 16."""


@triton.jit
def _mixed(x):
    """uint32 -> uint32, the hash `trainer.models.blocks.dropout_hash._mix`."""
    x ^= x >> 16
    x *= 0x7FEB352D
    x ^= x >> 15
    x *= 0x846CA68B
    x ^= x >> 16
    return x


@triton.jit
def _pair_hashes(row_hashes, pairs):
    """Row hashes [ROWS], key pairs [PAIRS] -> uint32 [ROWS, PAIRS], the draws of both keys."""
    column = (pairs + 1).to(tl.uint32)
    column = (column ^ (column >> 16)) * 0x7FEB352D
    column = (column ^ (column >> 16)) * 0x2C1B3C6D
    column ^= column >> 15
    x = row_hashes[:, None] ^ column[None, :]
    x *= 0x7FEB352D
    x ^= x >> 15
    x *= 0x846CA68B
    x ^= x >> 16
    return x


@triton.jit
def _row_hashes(KEYS, HEADS, head, start, rows, length):
    """uint32 [ROWS], one hash for each query of a head."""
    keys = tl.load(KEYS + start + rows, mask=rows < length, other=0)
    return _mixed((keys ^ tl.load(HEADS + head)).to(tl.uint32, bitcast=True))


@triton.jit
def _kept(hashes, half: tl.constexpr, threshold):
    """Whether each even (half 0) or odd key is kept; its draw is the low or high 16 bits."""
    bits = hashes
    if half == 0:
        bits = hashes << 16
    return bits.to(tl.int32, bitcast=True) >= threshold


@triton.jit
def _load(X, rows, length, row_stride, C: tl.constexpr, BLOCK_C: tl.constexpr):
    """[ROWS, BLOCK_C], with zeros beyond the sequence and beyond the channels."""
    channels = tl.arange(0, BLOCK_C)
    places = rows.to(tl.int64)[:, None] * row_stride + channels[None, :]
    return tl.load(X + places, mask=(rows < length)[:, None] & (channels < C)[None, :], other=0.0)


@triton.jit
def _store(X, x, rows, length, row_stride, C: tl.constexpr, BLOCK_C: tl.constexpr):
    channels = tl.arange(0, BLOCK_C)
    places = rows.to(tl.int64)[:, None] * row_stride + channels[None, :]
    inside = (rows < length)[:, None] & (channels < C)[None, :]
    tl.store(X + places, x.to(X.dtype.element_ty), mask=inside)


@triton.jit
def _tanh(x):
    """tanh, computed with its series near 0, where 1 - exp loses precision."""
    square = x * x
    series = x * (1.0 - square * (1.0 / 3.0 - square * (2.0 / 15.0 - square * (17.0 / 315.0))))
    fading = tl.exp(-2.0 * tl.abs(x))
    far = (1.0 - fading) / (1.0 + fading)
    return tl.where(square < 0.01, series, tl.where(x < 0, -far, far))


@triton.jit
def _scores(
    q, k, rows, columns, length, scale, cap, left, right,
    WINDOW: tl.constexpr, CAPS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """q [ROWS, C], k [KEYS, C] -> [ROWS, KEYS], -inf where a key is masked."""
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
    if CAPS:
        scores = cap * _tanh(scores / cap)
    seen = (columns < length)[None, :]
    if WINDOW:
        distance = columns[None, :] - rows[:, None]
        seen = seen & (distance >= -left) & (distance <= right)
    return tl.where(seen, scores, float("-inf"))


@triton.jit(do_not_specialize=VARYING)
def forward(
    Q, K, V, OUT, LSE, KEYS, HEADS, STARTS,
    q_row, q_head, k_row, k_head, v_row, v_head, num_tokens,
    scale, cap, threshold, keep_scale, left, right,
    GROUP: tl.constexpr, C: tl.constexpr, BLOCK_C: tl.constexpr,
    ROWS: tl.constexpr, PAIRS: tl.constexpr,
    DROPS: tl.constexpr, WINDOW: tl.constexpr, CAPS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write OUT [T, H, C] and LSE [H, T]; a program handles ROWS queries of a sequence and head."""
    first, head, sequence = tl.program_id(0) * ROWS, tl.program_id(1), tl.program_id(2)
    start = tl.load(STARTS + sequence)
    length = tl.load(STARTS + sequence + 1) - start
    if first >= length:
        return
    rows = first + tl.arange(0, ROWS)
    K += start.to(tl.int64) * k_row + (head // GROUP) * k_head
    V += start.to(tl.int64) * v_row + (head // GROUP) * v_head
    q = _load(Q + start.to(tl.int64) * q_row + head * q_head, rows, length, q_row, C, BLOCK_C)
    row_hashes = _row_hashes(KEYS, HEADS, head, start, rows, length) if DROPS else 0
    begin, end = 0, length
    if WINDOW:
        begin, end = tl.maximum(first - left, 0), tl.minimum(first + ROWS + right, length)
    best = tl.full([ROWS], -1e30, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    context = tl.zeros([ROWS, BLOCK_C], tl.float32)
    for place in range(begin // 2, (end + 1) // 2, PAIRS):
        pairs = place + tl.arange(0, PAIRS)
        hashes = _pair_hashes(row_hashes, pairs) if DROPS else 0
        for half in tl.static_range(2):
            columns = 2 * pairs + half
            k = _load(K, columns, length, k_row, C, BLOCK_C)
            s = _scores(
                q, k, rows, columns, length, scale, cap, left, right, WINDOW, CAPS, PRECISION
            )
            better = tl.maximum(best, tl.max(s, 1))
            p = tl.exp2(s - better[:, None])
            fade = tl.exp2(best - better)
            total = total * fade + tl.sum(p, 1)
            best = better
            if DROPS:
                p = tl.where(_kept(hashes, half, threshold), p, 0.0)
            v = _load(V, columns, length, v_row, C, BLOCK_C)
            context = context * fade[:, None]
            context += tl.dot(p.to(v.dtype), v, input_precision=PRECISION)
    width = tl.num_programs(1) * C
    OUT += start.to(tl.int64) * width + head * C
    _store(OUT, context * (keep_scale / total)[:, None], rows, length, width, C, BLOCK_C)
    LSE += head.to(tl.int64) * num_tokens + start
    tl.store(LSE + rows, best + tl.log2(total), mask=rows < length)


@triton.jit
def _score_gradients(
    q, k, v, grad, rows, columns, length, lse, delta, hashes, half: tl.constexpr,
    scale, cap, threshold, keep_scale, left, right,
    DROPS: tl.constexpr, WINDOW: tl.constexpr, CAPS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The probabilities after dropout and the gradient of the scores, for one block."""
    s = _scores(q, k, rows, columns, length, scale, cap, left, right, WINDOW, CAPS, PRECISION)
    p = tl.exp2(s - lse[:, None])
    grad_p = tl.dot(grad, tl.trans(v), input_precision=PRECISION)
    dropped = p
    if DROPS:
        kept = _kept(hashes, half, threshold)
        grad_p = tl.where(kept, grad_p * keep_scale, 0.0)
        dropped = tl.where(kept, p * keep_scale, 0.0)
    grad_s = p * (grad_p - delta[:, None])
    if CAPS:  # the slope of the cap; a masked key has p = 0 and s = -inf
        share = tl.where(p > 0, s / cap, 0.0)
        grad_s *= 1.0 - share * share
    return dropped, grad_s


@triton.jit(do_not_specialize=VARYING)
def backward_of_queries(
    Q, K, V, OUT, GRAD, LSE, DELTA, GRAD_Q, KEYS, HEADS, STARTS,
    q_row, q_head, k_row, k_head, v_row, v_head, num_tokens,
    scale, plain_scale, cap, threshold, keep_scale, left, right,
    GROUP: tl.constexpr, C: tl.constexpr, BLOCK_C: tl.constexpr,
    ROWS: tl.constexpr, PAIRS: tl.constexpr,
    DROPS: tl.constexpr, WINDOW: tl.constexpr, CAPS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write GRAD_Q [T, H, C] and, for `backward_of_keys`, DELTA [H, T]: row sums of OUT x GRAD."""
    first, head, sequence = tl.program_id(0) * ROWS, tl.program_id(1), tl.program_id(2)
    start = tl.load(STARTS + sequence)
    length = tl.load(STARTS + sequence + 1) - start
    if first >= length:
        return
    rows = first + tl.arange(0, ROWS)
    width = tl.num_programs(1) * C
    here = start.to(tl.int64) * width + head * C
    K += start.to(tl.int64) * k_row + (head // GROUP) * k_head
    V += start.to(tl.int64) * v_row + (head // GROUP) * v_head
    q = _load(Q + start.to(tl.int64) * q_row + head * q_head, rows, length, q_row, C, BLOCK_C)
    grad = _load(GRAD + here, rows, length, width, C, BLOCK_C)
    out = _load(OUT + here, rows, length, width, C, BLOCK_C)
    delta = tl.sum(out.to(tl.float32) * grad.to(tl.float32), 1)
    by_row = head.to(tl.int64) * num_tokens + start + rows
    tl.store(DELTA + by_row, delta, mask=rows < length)
    lse = tl.load(LSE + by_row, mask=rows < length, other=float("inf"))
    row_hashes = _row_hashes(KEYS, HEADS, head, start, rows, length) if DROPS else 0
    begin, end = 0, length
    if WINDOW:
        begin, end = tl.maximum(first - left, 0), tl.minimum(first + ROWS + right, length)
    grad_q = tl.zeros([ROWS, BLOCK_C], tl.float32)
    for place in range(begin // 2, (end + 1) // 2, PAIRS):
        pairs = place + tl.arange(0, PAIRS)
        hashes = _pair_hashes(row_hashes, pairs) if DROPS else 0
        for half in tl.static_range(2):
            columns = 2 * pairs + half
            k = _load(K, columns, length, k_row, C, BLOCK_C)
            v = _load(V, columns, length, v_row, C, BLOCK_C)
            _, grad_s = _score_gradients(
                q, k, v, grad, rows, columns, length, lse, delta, hashes, half,
                scale, cap, threshold, keep_scale, left, right, DROPS, WINDOW, CAPS, PRECISION,
            )  # fmt: skip
            grad_q += tl.dot(grad_s.to(k.dtype), k, input_precision=PRECISION)
    _store(GRAD_Q + here, grad_q * plain_scale, rows, length, width, C, BLOCK_C)


@triton.jit(do_not_specialize=VARYING)
def backward_of_keys(
    Q, K, V, GRAD, LSE, DELTA, GRAD_K, GRAD_V, KEYS, HEADS, STARTS,
    q_row, q_head, k_row, k_head, v_row, v_head, num_tokens,
    scale, plain_scale, cap, threshold, keep_scale, left, right,
    GROUP: tl.constexpr, C: tl.constexpr, BLOCK_C: tl.constexpr,
    ROWS: tl.constexpr, PAIRS: tl.constexpr,
    DROPS: tl.constexpr, WINDOW: tl.constexpr, CAPS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write GRAD_K and GRAD_V [T, K, C]; a program handles PAIRS key pairs of one key head."""
    pair, key_head, sequence = tl.program_id(0) * PAIRS, tl.program_id(1), tl.program_id(2)
    start = tl.load(STARTS + sequence)
    length = tl.load(STARTS + sequence + 1) - start
    if 2 * pair >= length:
        return
    pairs = pair + tl.arange(0, PAIRS)
    K += start.to(tl.int64) * k_row + key_head * k_head
    V += start.to(tl.int64) * v_row + key_head * v_head
    even_k = _load(K, 2 * pairs, length, k_row, C, BLOCK_C)
    even_v = _load(V, 2 * pairs, length, v_row, C, BLOCK_C)
    odd_k = _load(K, 2 * pairs + 1, length, k_row, C, BLOCK_C)
    odd_v = _load(V, 2 * pairs + 1, length, v_row, C, BLOCK_C)
    even_grad_k = tl.zeros([PAIRS, BLOCK_C], tl.float32)
    even_grad_v, odd_grad_k, odd_grad_v = even_grad_k, even_grad_k, even_grad_k
    begin, end = 0, length
    if WINDOW:
        begin = tl.maximum(2 * pair - right, 0)
        end = tl.minimum(2 * (pair + PAIRS) + left, length)
    width = tl.num_programs(1) * GROUP * C
    for head in range(key_head * GROUP, (key_head + 1) * GROUP):
        for first in range(begin, end, ROWS):
            rows = first + tl.arange(0, ROWS)
            q_here = Q + start.to(tl.int64) * q_row + head * q_head
            q = _load(q_here, rows, length, q_row, C, BLOCK_C)
            here = GRAD + start.to(tl.int64) * width + head * C
            grad = _load(here, rows, length, width, C, BLOCK_C)
            by_row = tl.cast(head, tl.int64) * num_tokens + start + rows
            lse = tl.load(LSE + by_row, mask=rows < length, other=float("inf"))
            delta = tl.load(DELTA + by_row, mask=rows < length, other=0.0)
            hashes = 0
            if DROPS:
                row_hashes = _row_hashes(KEYS, HEADS, head, start, rows, length)
                hashes = _pair_hashes(row_hashes, pairs)
            p, grad_s = _score_gradients(
                q, even_k, even_v, grad, rows, 2 * pairs, length, lse, delta, hashes, 0,
                scale, cap, threshold, keep_scale, left, right, DROPS, WINDOW, CAPS, PRECISION,
            )  # fmt: skip
            even_grad_v += tl.dot(tl.trans(p.to(q.dtype)), grad, input_precision=PRECISION)
            even_grad_k += tl.dot(tl.trans(grad_s.to(q.dtype)), q, input_precision=PRECISION)
            p, grad_s = _score_gradients(
                q, odd_k, odd_v, grad, rows, 2 * pairs + 1, length, lse, delta, hashes, 1,
                scale, cap, threshold, keep_scale, left, right, DROPS, WINDOW, CAPS, PRECISION,
            )  # fmt: skip
            odd_grad_v += tl.dot(tl.trans(p.to(q.dtype)), grad, input_precision=PRECISION)
            odd_grad_k += tl.dot(tl.trans(grad_s.to(q.dtype)), q, input_precision=PRECISION)
    width = tl.num_programs(1) * C
    here = start.to(tl.int64) * width + key_head * C
    _store(GRAD_K + here, even_grad_k * plain_scale, 2 * pairs, length, width, C, BLOCK_C)
    _store(GRAD_V + here, even_grad_v, 2 * pairs, length, width, C, BLOCK_C)
    _store(GRAD_K + here, odd_grad_k * plain_scale, 2 * pairs + 1, length, width, C, BLOCK_C)
    _store(GRAD_V + here, odd_grad_v, 2 * pairs + 1, length, width, C, BLOCK_C)
