"""Dealing: distributes groups of samples over ranks and micro batches, each group as a whole."""

from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np

ATTENTION_PARITY = 4608
"""The length in tokens at which attention costs as much as linear layers: 6 x a hidden size of
768."""


@dataclass(frozen=True)
class Groups:
    """Groups of consecutive samples that must run in the same micro batch.

    With a size of 1, each sample is a group.
    """

    size: int
    """The number of samples in a group; the last group may have fewer."""
    num_samples: int
    lengths: np.ndarray
    """The number of tokens in each group."""
    costs: np.ndarray
    """The relative cost of each group."""

    @classmethod
    def of(cls, lengths: np.ndarray, size: int) -> "Groups":
        """The groups of samples with these lengths, [N]."""
        return cls(size, len(lengths), in_groups(lengths, size), in_groups(cost(lengths), size))

    def samples(self, groups: np.ndarray) -> np.ndarray:
        """The indices of the samples in these groups; a shorter group comes last."""
        last = len(self.lengths) - 1
        short_last = np.argsort(groups == last, kind="stable") if self.size > 1 else slice(None)
        indices = (groups[short_last, None] * self.size + np.arange(self.size)).reshape(-1)
        return indices[indices < self.num_samples]


def in_groups(amounts: np.ndarray, size: int) -> np.ndarray:
    """Sums over groups of `size` consecutive samples; the last group may have fewer."""
    if size == 1 or len(amounts) == 0:
        return amounts
    return np.add.reduceat(amounts, np.arange(0, len(amounts), size))


def cost(lengths: np.ndarray) -> np.ndarray:
    """The relative cost of samples of these lengths: linear layers plus attention."""
    costs: np.ndarray = lengths * (ATTENTION_PARITY + lengths)
    return costs


def deal(costs: np.ndarray, world_size: int, max_per_micro_batch: int | None) -> list[np.ndarray]:
    """The indices of the groups of each rank, the most costly first.

    The most costly remaining group goes to the rank with the least work so far (Graham's LPT rule,
    1969). If `max_per_micro_batch` is given, no rank gets more groups than fit into the minimum
    number of micro batches.
    """
    costly_first = np.argsort(-costs, kind="stable")
    if world_size == 1:
        return [costly_first]
    room = len(costs)
    if max_per_micro_batch is not None:
        room = -(-len(costs) // (world_size * max_per_micro_batch)) * max_per_micro_batch
    work = costs.tolist()
    shares: list[list[int]] = [[] for _ in range(world_size)]
    ranks = [(0, rank) for rank in range(world_size)]
    for index in costly_first.tolist():
        load, rank = heappop(ranks)
        shares[rank].append(index)
        if len(shares[rank]) < room:
            heappush(ranks, (load + work[index], rank))
    return [np.array(share, dtype=np.int64) for share in shares]


def cut(
    lengths: np.ndarray,
    max_groups: int | None,
    max_tokens: int | None,
    kinds: np.ndarray | None = None,
) -> list[slice]:
    """Consecutive non-empty slices of `lengths`, each as large as both limits allow.

    With `kinds`, [N], a slice has groups of only one kind.
    """
    ends = np.cumsum(lengths)
    changes = np.flatnonzero(np.diff(kinds)) + 1 if kinds is not None else np.empty(0, np.int64)
    slices = []
    start = 0
    while start < len(lengths):
        stop = len(lengths)
        if max_tokens is not None:
            allowed = max_tokens + (ends[start - 1] if start else 0)
            stop = max(int(np.searchsorted(ends, allowed, side="right")), start + 1)
        if max_groups is not None:
            stop = min(stop, start + max_groups)
        next_kind = changes[np.searchsorted(changes, start, side="right") :][:1]
        stop = min([stop, *next_kind.tolist()])
        slices.append(slice(start, stop))
        start = stop
    return slices


def split_further(pieces: list[slice], lengths: np.ndarray, num_pieces: int) -> list[slice]:
    """Halve the slice with the most tokens until there are `num_pieces` slices.

    If only single groups are left, empty slices are appended.
    """
    pieces = list(pieces)
    while len(pieces) < num_pieces:
        tokens = [
            int(lengths[piece].sum()) if piece.stop - piece.start > 1 else 0 for piece in pieces
        ]
        if not any(tokens):
            pieces += [slice(0, 0)] * (num_pieces - len(pieces))
            break
        largest = int(np.argmax(tokens))
        start, stop = pieces[largest].start, pieces[largest].stop
        middle = (start + stop) // 2
        pieces[largest : largest + 1] = [slice(start, middle), slice(middle, stop)]
    return pieces
