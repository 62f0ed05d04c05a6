"""The plan of a run: which samples each optimizer step sees, and which rank runs which of them."""

from heapq import heappop, heappush

import numpy as np

from trainer.errors import InputError

ATTENTION_PARITY = 4608
"""The length at which attention costs as much as the linear layers: 6 x the width, here 768."""

IMBALANCE_STEPS = 100
"""Steps that are looked at to tell how even the work is."""


class GlobalBatchPlan:
    """The samples of every optimizer step, as a function of (seed, epoch, lengths, batch size).

    Nothing here is stepped or stored: any step may be asked for, in any order, on any rank.
    """

    def __init__(self, lengths: np.ndarray, global_batch_size: int, seed: int) -> None:
        """Plan over samples of `lengths` tokens, [N]; raises InputError where there are none."""
        if len(lengths) == 0:
            raise InputError("dataset.train: found no rows; at least one is needed to train on")
        assert global_batch_size >= 1
        self.lengths = np.asarray(lengths, dtype=np.int64)
        self.global_batch_size = global_batch_size
        self.seed = seed
        self._orders: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        """The number of samples in an epoch."""
        return len(self.lengths)

    @property
    def steps_per_epoch(self) -> int:
        """Global batches in an epoch, the last and perhaps short one included."""
        return -(-len(self) // self.global_batch_size)

    def samples_before(self, step: int) -> int:
        """Samples consumed once `step` steps are done: the one integer that is the position."""
        epoch, position = divmod(step, self.steps_per_epoch)
        return epoch * len(self) + position * self.global_batch_size

    def global_batch(self, step: int) -> np.ndarray:
        """The numbers of the samples of step 0, 1, 2, ...: at most `global_batch_size` of them."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch not in self._orders:  # of the next epoch's first step one asks before its time
            kept = {number: order for number, order in self._orders.items() if number == epoch - 1}
            self._orders = kept | {epoch: epoch_order(len(self), self.seed, epoch)}
        start = position * self.global_batch_size
        return self._orders[epoch][start : start + self.global_batch_size]

    def micro_batches(
        self,
        step: int,
        *,
        rank: int,
        world_size: int,
        micro_batch_size: int | None = None,
        max_tokens: int | None = None,
    ) -> list[np.ndarray]:
        """What `rank` runs of a global batch, longest samples first.

        Every rank gets the same number of micro batches; an empty one stands for a placeholder.
        No micro batch has more than `micro_batch_size` samples or `max_tokens` tokens, except
        that a sample longer than `max_tokens` goes alone.
        """
        samples = self.global_batch(step)
        lengths = self.lengths[samples]
        shares = deal(lengths, world_size, micro_batch_size)
        cuts = [cut(lengths[share], micro_batch_size, max_tokens) for share in shares]
        num_pieces = max(map(len, cuts))
        pieces = split_further(cuts[rank], lengths[shares[rank]], num_pieces)
        return [samples[shares[rank][piece]] for piece in pieces]

    def imbalance(self, world_size: int, micro_batch_size: int | None = None) -> float:
        """How much more than the mean the busiest rank does in a step; 0.1 is a tenth more.

        Steps last as long as their busiest rank, so this is time that the others wait. It is the
        mean over the first steps, at most IMBALANCE_STEPS of them.
        """
        busiest, mean = 0.0, 0.0
        for step in range(min(self.steps_per_epoch, IMBALANCE_STEPS)):
            lengths = self.lengths[self.global_batch(step)]
            shares = deal(lengths, world_size, micro_batch_size)
            loads = [int(cost(lengths[share]).sum()) for share in shares]
            busiest += max(loads)
            mean += sum(loads) / world_size
        return busiest / mean - 1


def cost(lengths: np.ndarray) -> np.ndarray:
    """What samples of these lengths cost beside each other: linear layers, and attention."""
    return lengths * (ATTENTION_PARITY + lengths)


def epoch_order(num_samples: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of `num_samples` numbers: the same under every version of numpy."""
    start = splitmix64(splitmix64(_uint64(seed)) ^ _uint64(epoch))
    # Distinct inputs of a bijection: no two keys are equal, so no tie is left to the sort.
    keys = splitmix64(start + np.arange(num_samples, dtype=np.uint64))
    return np.argsort(keys, kind="stable")


def splitmix64(x: np.ndarray) -> np.ndarray:
    """SplitMix64, a bijection of uint64 (Steele, Lea and Flood, "Fast Splittable PRNGs", 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _uint64(number: int) -> np.ndarray:
    """[1]: numpy lets arrays wrap around silently, but warns where scalars do."""
    return np.array([number & 0xFFFF_FFFF_FFFF_FFFF], dtype=np.uint64)


def deal(lengths: np.ndarray, world_size: int, micro_batch_size: int | None) -> list[np.ndarray]:
    """Indices into `lengths` for each rank, longest first, at about the same cost for all.

    The longest sample left goes to the rank with the least to do (Graham's LPT rule, 1969). With a
    `micro_batch_size`, no rank gets more samples than the fewest micro batches can hold.
    """
    longest_first = np.argsort(-lengths, kind="stable")
    if world_size == 1:
        return [longest_first]
    room = len(lengths)
    if micro_batch_size is not None:
        room = -(-len(lengths) // (world_size * micro_batch_size)) * micro_batch_size
    costs = cost(lengths).tolist()
    shares: list[list[int]] = [[] for _ in range(world_size)]
    ranks = [(0, rank) for rank in range(world_size)]
    for index in longest_first.tolist():
        load, rank = heappop(ranks)
        shares[rank].append(index)
        if len(shares[rank]) < room:
            heappush(ranks, (load + costs[index], rank))
    return [np.array(share, dtype=np.int64) for share in shares]


def cut(lengths: np.ndarray, max_samples: int | None, max_tokens: int | None) -> list[slice]:
    """Consecutive slices of `lengths`, each as large as both bounds allow and never empty."""
    ends = np.cumsum(lengths)
    slices = []
    start = 0
    while start < len(lengths):
        stop = len(lengths)
        if max_tokens is not None:
            allowed = max_tokens + (ends[start - 1] if start else 0)
            stop = max(int(np.searchsorted(ends, allowed, side="right")), start + 1)
        if max_samples is not None:
            stop = min(stop, start + max_samples)
        slices.append(slice(start, stop))
        start = stop
    return slices


def split_further(pieces: list[slice], lengths: np.ndarray, num_pieces: int) -> list[slice]:
    """`num_pieces` slices: the one with the most tokens is halved until there are enough.

    Where only single samples are left, empty slices at the end make up the number.
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


def evaluation_batches(lengths: np.ndarray, max_tokens: int) -> list[np.ndarray]:
    """All samples once, longest first, in batches that depend on nothing but the arguments.

    A batch has at most `max_tokens` tokens, or a single sample.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    longest_first = np.argsort(-lengths, kind="stable")
    return [longest_first[piece] for piece in cut(lengths[longest_first], None, max_tokens)]
