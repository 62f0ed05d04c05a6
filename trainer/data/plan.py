"""The plan of a run: the samples of each optimizer step, and of each rank within the step."""

from typing import Protocol

import numpy as np

from trainer.data.dealing import Groups, cut, deal, split_further
from trainer.errors import InputError

IMBALANCE_STEPS = 100
"""The number of steps over which `imbalance` averages."""


class Plan(Protocol):
    """The interface of plans, which determine the samples of each optimizer step.

    Every rank makes the same plan. A plan has no state to advance or save: any rank may request any
    step, counted from 0, in any order.
    """

    @property
    def steps_per_epoch(self) -> int | None:
        """The number of steps in a pass over the data; None if the data is endless."""
        ...

    def samples_before(self, step: int) -> int:
        """The number of samples in the first `step` steps; checkpoints store it as the position."""
        ...

    def global_batch(self, step: int) -> np.ndarray:
        """The sample indices of a step."""
        ...

    def micro_batches(
        self,
        step: int,
        *,
        rank: int,
        world_size: int,
        micro_batch_size: int | None = None,
        max_tokens: int | None = None,
    ) -> list[np.ndarray]:
        """The sample indices of each micro batch that a rank runs in a step.

        Every rank gets the same number of micro batches, and runs a placeholder for empty ones.
        """
        ...

    def imbalance(self, world_size: int, micro_batch_size: int | None = None) -> float:
        """The work of the busiest rank relative to the mean, minus 1; 0.1 is 10 % more."""
        ...


class GlobalBatchPlan:
    """The samples of every optimizer step, as a function of (seed, epoch, lengths, batch size).

    It has no state to advance or save: any rank may request any step, in any order.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        global_batch_size: int,
        seed: int,
        group_size: int = 1,
        kinds: np.ndarray | None = None,
    ) -> None:
        """Plan for samples with `lengths` tokens, [N].

        With `kinds`, [N], samples of different kinds never share a micro batch. The samples of a
        group must be of one kind.

        Groups of `group_size` consecutive samples of a global batch stay in one micro batch of one
        rank; the last group of an epoch may be short. Raises InputError if there are no samples,
        and if a global batch does not consist of whole groups.
        """
        if len(lengths) == 0:
            raise InputError("dataset.train: found no rows; at least one is needed to train on")
        assert global_batch_size >= 1 and group_size >= 1
        if global_batch_size % group_size:
            raise InputError(
                f"trainer.global_batch_size: found {global_batch_size}; accepted: a multiple of "
                f"{group_size}, since the recipe's loss compares as many samples"
            )
        self.lengths = np.asarray(lengths, dtype=np.int64)
        self.global_batch_size = global_batch_size
        self.seed = seed
        self.group_size = group_size
        self.kinds = kinds
        self._orders: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        """The number of samples in an epoch."""
        return len(self.lengths)

    @property
    def steps_per_epoch(self) -> int:
        """The number of global batches in an epoch; the last one may be short."""
        return -(-len(self) // self.global_batch_size)

    def samples_before(self, step: int) -> int:
        """The number of samples in the first `step` steps; checkpoints store it as the position."""
        epoch, position = divmod(step, self.steps_per_epoch)
        return epoch * len(self) + position * self.global_batch_size

    def global_batch(self, step: int) -> np.ndarray:
        """The sample indices of a step (counted from 0), at most `global_batch_size` of them."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch not in self._orders:  # the next epoch's first step may be requested early
            kept = {number: order for number, order in self._orders.items() if number == epoch - 1}
            self._orders = kept | {epoch: self._order(epoch)}
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
        """The micro batches of `rank` for a step, longest samples first.

        Every rank gets the same number of micro batches, and runs a placeholder for empty ones. No
        micro batch has more than `micro_batch_size` samples or `max_tokens` tokens, unless it
        consists of one group with more than `max_tokens`. The samples of a group are consecutive; a
        short group comes last.
        """
        samples = self.global_batch(step)
        groups = Groups.of(self.lengths[samples], self.group_size)
        most = self._groups_in(micro_batch_size)
        shares = deal(groups.costs, world_size, most)
        kinds = None if self.kinds is None else self.kinds[samples[:: self.group_size]]
        shares = [by_kind(share, kinds) for share in shares]
        cuts = [
            cut(groups.lengths[share], most, max_tokens, None if kinds is None else kinds[share])
            for share in shares
        ]
        share, num_pieces = shares[rank], max(map(len, cuts))
        pieces = split_further(cuts[rank], groups.lengths[share], num_pieces)
        return [samples[groups.samples(share[piece])] for piece in pieces]

    def imbalance(self, world_size: int, micro_batch_size: int | None = None) -> float:
        """The work of the busiest rank relative to the mean, minus 1; 0.1 is 10 % more.

        A step takes as long as its busiest rank, so the other ranks wait for this share. Averaged
        over the first IMBALANCE_STEPS steps.
        """
        busiest, mean = 0.0, 0.0
        most = self._groups_in(micro_batch_size)
        for step in range(min(self.steps_per_epoch, IMBALANCE_STEPS)):
            groups = Groups.of(self.lengths[self.global_batch(step)], self.group_size)
            shares = deal(groups.costs, world_size, most)
            loads = [int(groups.costs[share].sum()) for share in shares]
            busiest += max(loads)
            mean += sum(loads) / world_size
        return busiest / mean - 1

    def _order(self, epoch: int) -> np.ndarray:
        """The samples of an epoch in the order in which they are trained on."""
        return epoch_order(len(self), self.seed, epoch)

    def _groups_in(self, micro_batch_size: int | None) -> int | None:
        """The largest number of groups that fits into a micro batch of this many samples."""
        if micro_batch_size is None:
            return None
        if micro_batch_size < self.group_size:
            raise InputError(
                f"trainer.micro_batch_size: found {micro_batch_size}; accepted: at least "
                f"{self.group_size}, since the recipe's loss compares as many samples"
            )
        return micro_batch_size // self.group_size


def evaluation_batches(
    lengths: np.ndarray, max_tokens: int, group_size: int = 1, kinds: np.ndarray | None = None
) -> list[np.ndarray]:
    """Batches with every sample once, longest first, that depend only on the arguments.

    A batch has at most `max_tokens` tokens, unless a single group (`group_size` consecutive samples
    of the data set) has more. With `kinds`, [N], a batch has samples of only one kind, and groups
    consist of consecutive samples of that kind.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    if kinds is not None:
        parts = [np.flatnonzero(kinds == kind) for kind in np.unique(kinds)]
        return [
            own[batch]
            for own in parts
            for batch in evaluation_batches(lengths[own], max_tokens, group_size)
        ]
    groups = Groups.of(lengths, group_size)
    order = np.argsort(-groups.lengths, kind="stable")
    pieces = cut(groups.lengths[order], None, max_tokens)
    return [groups.samples(order[piece]) for piece in pieces]


def by_kind(indices: np.ndarray, kinds: np.ndarray | None) -> np.ndarray:
    """The indices sorted by kind; those of one kind keep their order."""
    return indices if kinds is None else indices[np.argsort(kinds[indices], kind="stable")]


def epoch_order(num_samples: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of `num_samples` indices, the same under every version of numpy."""
    start = splitmix64(splitmix64(_uint64(seed)) ^ _uint64(epoch))
    # The inputs are distinct and splitmix64 is a bijection, so there are no ties to sort.
    keys = splitmix64(start + np.arange(num_samples, dtype=np.uint64))
    return np.argsort(keys, kind="stable")


def splitmix64(x: np.ndarray) -> np.ndarray:
    """SplitMix64, a bijection of uint64 (Steele, Lea and Flood, "Fast Splittable PRNGs", 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = x ^ (x >> np.uint64(31))
    return mixed


def _uint64(number: int) -> np.ndarray:
    """The number as an array [1], since numpy warns when scalars overflow but not for arrays."""
    return np.array([number & 0xFFFF_FFFF_FFFF_FFFF], dtype=np.uint64)
