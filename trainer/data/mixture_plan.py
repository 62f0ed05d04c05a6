"""MixturePlan: chooses each step's samples from several sources, as a function of the seed."""

import math
from collections.abc import Mapping

import numpy as np

from trainer.data.mixed_rows import Blend, source_key
from trainer.data.plan import GlobalBatchPlan, epoch_order, splitmix64
from trainer.errors import InputError

MANTISSA = 53
"""The number of random bits in a random number in [0, 1)."""
MAX_SAMPLES = 10**9
"""The maximum number of samples in an epoch that repeats samples; a sample takes about 50 bytes."""


class MixturePlan(GlobalBatchPlan):
    """The samples of every optimizer step, drawn from several sources in fixed shares.

    Each source is repeated endlessly, in a new order for each pass. An epoch of the mixture takes
    the next `counts[i]` samples of source i and spreads them evenly, so that the shares in a global
    batch are close to those in the epoch. The indices of samples continue from one source to the
    next.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        sizes: np.ndarray,
        counts: np.ndarray,
        global_batch_size: int,
        seed: int,
        group_size: int = 1,
        kinds: np.ndarray | None = None,
    ) -> None:
        """Plan for samples with `lengths` tokens, [N], of which `sizes[i]` belong to source i.

        An epoch has `counts[i]` samples of source i, a multiple of `group_size` (see
        `epoch_counts`). The samples of a group are distinct and belong to a single source.
        """
        super().__init__(lengths, global_batch_size, seed, group_size, kinds)
        self.sizes, self.counts = sizes, counts
        self._starts = np.cumsum(sizes) - sizes

    def __len__(self) -> int:
        """The number of samples in an epoch of the mixture."""
        return int(self.counts.sum())

    def _order(self, epoch: int) -> np.ndarray:
        size = self.group_size
        groups, times = [], []
        for source, count in enumerate(self.counts.tolist()):
            number = count // size
            places = np.arange(number)
            groups.append(self._drawn(source, epoch * count, count).reshape(number, size))
            times.append((places + _noise(self.seed, epoch, source, number)) / max(number, 1))
        order = np.argsort(np.concatenate(times), kind="stable")
        found: np.ndarray = np.concatenate(groups)[order].reshape(-1)
        return found

    def _drawn(self, source: int, start: int, count: int) -> np.ndarray:
        """`count` samples of a source, starting at position `start` of its endless sequence.

        A pass skips the samples at its end that do not fill a group. The skipped samples differ
        between passes.
        """
        size = int(self.sizes[source])
        whole = size - size % self.group_size
        seed = int(splitmix64(np.array([source + 1], dtype=np.uint64))[0]) ^ self.seed
        found = np.empty(count, dtype=np.int64)
        done = 0
        while done < count:
            number, place = divmod(start + done, whole)
            part = epoch_order(size, seed, number)[place : min(whole, place + count - done)]
            found[done : done + len(part)] = part
            done += len(part)
        found += self._starts[source]
        return found


def epoch_counts(sizes: dict[str, int], blend: Blend, group_size: int = 1) -> np.ndarray:
    """The number of samples of each source in an epoch of the mixture, [K].

    They are multiples of `group_size`. `sizes` maps each source to its number of samples. Raises
    InputError if a source does not fill a single group, or if the epoch would be longer than both
    MAX_SAMPLES and all sources together.
    """
    groups = np.array([size // group_size for size in sizes.values()], dtype=np.int64)
    for (name, size), number in zip(sizes.items(), groups.tolist(), strict=True):
        if number == 0:
            accepted = f"accepted: at least {group_size}, since the recipe's loss compares as many"
            raise InputError(f"{source_key(name)}: found {size} training samples; {accepted}")
    if blend.by_epochs:
        passes = np.array([blend.epochs[name] for name in sizes], dtype=np.float64)
        length = float((groups * passes).sum())
        _check_length(length * group_size, sizes, "the epochs of its sources")
        counts: np.ndarray = np.maximum(np.rint(groups * passes), 1).astype(np.int64)
        return counts * group_size
    shares = source_shares(sizes, blend)
    with np.errstate(divide="ignore"):
        lasting = np.where(shares > 0, groups / shares, np.nan)
    lengths = {"rows": groups[shares > 0].sum(), "first": np.nanmin(lasting)}
    length = lengths.get(blend.until, np.nanmax(lasting))
    reason = f"these shares and dataset.until={blend.until}"
    _check_length(float(length) * group_size, sizes, reason)
    # rounded up for "all", so that passes are complete; 1e-6 allows for rounding errors
    whole = math.ceil(length - 1e-6) if blend.until == "all" else math.floor(length + 1e-6)
    return np.where(shares > 0, np.maximum(_apportioned(whole, shares), 1), 0) * group_size


def _check_length(length: float, sizes: Mapping[str, int], reason: str) -> None:
    if length > max(MAX_SAMPLES, sum(sizes.values())):
        accepted = f"accepted: at most {MAX_SAMPLES:,}, by more equal shares or fewer epochs"
        raise InputError(
            f"dataset.mixture: {reason} make an epoch of {length:.2g} samples; {accepted}"
        )


def source_shares(sizes: dict[str, int], blend: Blend) -> np.ndarray:
    """The share of each source in the samples, [K]; the shares sum to 1."""
    given = {name: blend.weights[name] for name in sizes}
    found = [size if given[name] is None else given[name] for name, size in sizes.items()]
    weights = np.array(found, dtype=np.float64)
    weights = (weights / weights.max()) ** (1 / blend.temperature)
    shares: np.ndarray = weights / weights.sum()
    return shares


def _apportioned(total: int, shares: np.ndarray) -> np.ndarray:
    """Whole numbers near `total * shares` that sum to `total` (largest remainder method)."""
    exact = total * shares
    counts = np.floor(exact + 1e-6).astype(np.int64)
    missing = max(0, total - int(counts.sum()))
    counts[np.argsort(-(exact - counts), kind="stable")[:missing]] += 1
    return counts


def _noise(seed: int, epoch: int, source: int, number: int) -> np.ndarray:
    """A random number in [0, 1) for each of the `number` groups of a source in an epoch."""
    key = np.array([seed & 0xFFFF_FFFF_FFFF_FFFF], dtype=np.uint64)
    for part in (epoch, source):
        key = splitmix64(key) ^ np.uint64(part)
    drawn = splitmix64(splitmix64(key) + np.arange(number, dtype=np.uint64))
    found: np.ndarray = (drawn >> np.uint64(64 - MANTISSA)).astype(np.float64) / 2.0**MANTISSA
    return found
