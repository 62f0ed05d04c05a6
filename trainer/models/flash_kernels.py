"""Triton kernels of attention over flat sequences, with the masks of `trainer.models.dropout`.

A program works on the rows (queries) or the keys of one sequence and one head. Keys are visited in
pairs, since a hash holds the draws of two neighbouring keys: the even ones of a block first, then
the odd ones, which changes nothing but the order of sums. Scores are base-2 logarithms.
"""

import triton
import triton.language as tl

VARYING = ("num_tokens", "left", "right")
"""Numbers that differ between batches. Triton would compile once more for multiples of 16."""


@triton.jit
def _mixed(x):
    """uint32 -> uint32: `trainer.models.dropout._mix`."""
    x ^= x >> 16
    x *= 0x7FEB352D
    x ^= x >> 15
    x *= 0x846CA68B
    x ^= x >> 16
    return x


@triton.jit
def _pair_hashes(row_hashes, pairs):
    """Row hashes [ROWS], pairs of keys [PAIRS] -> uint32 [ROWS, PAIRS], the draws of both keys."""
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
    """Which of the even (half 0) or odd keys are kept; a draw is the low or the high 16 bits."""
    bits = hashes
    if half == 0:
        bits = hashes << 16
    return bits.to(tl.int32, bitcast=True) >= threshold


@triton.jit
def _load(X, rows, length, row_stride, C: tl.constexpr, BLOCK_C: tl.constexpr):
    """[ROWS, BLOCK_C], zeros behind the sequence and behind the channels."""
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
def _scores(
    q, k, rows, columns, length, scale, left, right, WINDOW: tl.constexpr, PRECISION: tl.constexpr
):
    """q [ROWS, C], k [KEYS, C] -> [ROWS, KEYS], -inf where a key is not seen."""
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
    seen = (columns < length)[None, :]
    if WINDOW:
        distance = columns[None, :] - rows[:, None]
        seen = seen & (distance >= -left) & (distance <= right)
    return tl.where(seen, scores, float("-inf"))


@triton.jit(do_not_specialize=VARYING)
def forward(
    Q, K, V, OUT, LSE, KEYS, HEADS, STARTS,
    q_row, q_head, k_row, k_head, v_row, v_head, num_tokens,
    scale, threshold, keep_scale, left, right,
    GROUP: tl.constexpr, C: tl.constexpr, BLOCK_C: tl.constexpr,
    ROWS: tl.constexpr, PAIRS: tl.constexpr,
    DROPS: tl.constexpr, WINDOW: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """OUT [T, H, C] and LSE [H, T]; one program for each ROWS queries of a sequence and head."""
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
            s = _scores(q, k, rows, columns, length, scale, left, right, WINDOW, PRECISION)
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
    scale, threshold, keep_scale, left, right,
    DROPS: tl.constexpr, WINDOW: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Of one block: the probabilities after dropout, and the gradient of the scores."""
    s = _scores(q, k, rows, columns, length, scale, left, right, WINDOW, PRECISION)
    p = tl.exp2(s - lse[:, None])
    grad_p = tl.dot(grad, tl.trans(v), input_precision=PRECISION)
    dropped = p
    if DROPS:
        kept = _kept(hashes, half, threshold)
        grad_p = tl.where(kept, grad_p * keep_scale, 0.0)
        dropped = tl.where(kept, p * keep_scale, 0.0)
    return dropped, p * (grad_p - delta[:, None])


@triton.jit(do_not_specialize=VARYING)
def backward_of_queries(
    Q, K, V, OUT, GRAD, LSE, DELTA, GRAD_Q, KEYS, HEADS, STARTS,
    q_row, q_head, k_row, k_head, v_row, v_head, num_tokens,
    scale, plain_scale, threshold, keep_scale, left, right,
    GROUP: tl.constexpr, C: tl.constexpr, BLOCK_C: tl.constexpr,
    ROWS: tl.constexpr, PAIRS: tl.constexpr,
    DROPS: tl.constexpr, WINDOW: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """GRAD_Q [T, H, C], and DELTA [H, T], each row's sum of OUT x GRAD, for `backward_of_keys`."""
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
                scale, threshold, keep_scale, left, right, DROPS, WINDOW, PRECISION,
            )  # fmt: skip
            grad_q += tl.dot(grad_s.to(k.dtype), k, input_precision=PRECISION)
    _store(GRAD_Q + here, grad_q * plain_scale, rows, length, width, C, BLOCK_C)


@triton.jit(do_not_specialize=VARYING)
def backward_of_keys(
    Q, K, V, GRAD, LSE, DELTA, GRAD_K, GRAD_V, KEYS, HEADS, STARTS,
    q_row, q_head, k_row, k_head, v_row, v_head, num_tokens,
    scale, plain_scale, threshold, keep_scale, left, right,
    GROUP: tl.constexpr, C: tl.constexpr, BLOCK_C: tl.constexpr,
    ROWS: tl.constexpr, PAIRS: tl.constexpr,
    DROPS: tl.constexpr, WINDOW: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """GRAD_K and GRAD_V [T, K, C]; one program for each PAIRS pairs of a sequence and key head."""
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
                scale, threshold, keep_scale, left, right, DROPS, WINDOW, PRECISION,
            )  # fmt: skip
            even_grad_v += tl.dot(tl.trans(p.to(q.dtype)), grad, input_precision=PRECISION)
            even_grad_k += tl.dot(tl.trans(grad_s.to(q.dtype)), q, input_precision=PRECISION)
            p, grad_s = _score_gradients(
                q, odd_k, odd_v, grad, rows, 2 * pairs + 1, length, lse, delta, hashes, 1,
                scale, threshold, keep_scale, left, right, DROPS, WINDOW, PRECISION,
            )  # fmt: skip
            odd_grad_v += tl.dot(tl.trans(p.to(q.dtype)), grad, input_precision=PRECISION)
            odd_grad_k += tl.dot(tl.trans(grad_s.to(q.dtype)), q, input_precision=PRECISION)
    width = tl.num_programs(1) * C
    here = start.to(tl.int64) * width + key_head * C
    _store(GRAD_K + here, even_grad_k * plain_scale, 2 * pairs, length, width, C, BLOCK_C)
    _store(GRAD_V + here, even_grad_v, 2 * pairs, length, width, C, BLOCK_C)
    _store(GRAD_K + here, odd_grad_k * plain_scale, 2 * pairs + 1, length, width, C, BLOCK_C)
    _store(GRAD_V + here, odd_grad_v, 2 * pairs + 1, length, width, C, BLOCK_C)
