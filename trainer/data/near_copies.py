"""Near-copies: finds samples with equal or nearly equal tokens, within a set and between sets."""

from collections import defaultdict
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from trainer.data.blocks import ranges
from trainer.data.near_duplicates import ALIKE, BANDS, ROWS
from trainer.data.plan import epoch_order, splitmix64
from trainer.data.tokens import TokenTable

SHINGLE = 3
"""The number of consecutive tokens in a shingle."""
TOKENS_AT_A_TIME = 1 << 20
"""The number of tokens whose shingles are hashed at a time."""
MOST_COMPARED = 1_000_000
"""The maximum number of texts of a set that are compared for near-copies.

Their signatures take 256 MB.
"""
MOST_IN_BUCKET = 200
"""The maximum number of texts of a bucket that a text is compared with. Texts in larger buckets
often share only a template."""


@dataclass(frozen=True)
class Texts:
    """The N texts of a set as tokens: its samples or, if the samples are blocks, its documents."""

    ids: np.ndarray
    """[T], the token ids of all texts"""
    offsets: np.ndarray
    """[N + 1]; text n consists of ids[offsets[n]:offsets[n + 1]]"""

    @classmethod
    def of(cls, table: TokenTable) -> "Texts":
        """The texts of a table."""
        if table.sequence_rows is None:
            return cls(table.input_ids, table.sequence_offsets[table.sample_offsets])
        begins = np.flatnonzero(np.diff(table.sequence_rows, prepend=-1))
        ends = np.append(table.sequence_offsets[begins], len(table.input_ids))
        return cls(table.input_ids, ends)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, number: int) -> np.ndarray:
        return self.ids[self.offsets[number] : self.offsets[number + 1]]

    def digests(self) -> np.ndarray:
        """[N] uint64, equal for equal texts."""
        found = np.empty(len(self), dtype=np.uint64)
        for number in range(len(self)):
            content = np.ascontiguousarray(self[number]).data
            digest = blake2b(content, digest_size=8).digest()
            found[number] = int.from_bytes(digest, "little")
        return found


@dataclass(frozen=True)
class Copies:
    """How many texts of a set are copies of others."""

    exact: int
    """The number of texts equal to an earlier text of the set, or to a text of the other set"""
    near: int
    """The number of texts nearly equal to another text, but not equal to any"""
    compared: int
    """The number of different texts that were compared for near-copies"""
    texts: int
    """The number of texts of the set: of its samples or, for blocks, of its documents"""


class Signatures:
    """The MinHash signatures of the different texts of a set, for finding copies.

    MinHash: Broder, On the resemblance and containment of documents (1997). Two texts are nearly
    equal if the estimated Jaccard index of their shingles is at least `ALIKE`.
    """

    def __init__(self, texts: Texts, near: bool = True) -> None:
        """Without `near`, only equal texts are found."""
        self.digests = texts.digests()
        _, first = np.unique(self.digests, return_index=True)
        self.num_different = len(first)
        if len(first) > MOST_COMPARED:
            first = first[epoch_order(len(first), 0, 0)[:MOST_COMPARED]]
        self.numbers = np.sort(first) if near else first[:0]
        """[C], the indices of the texts that are compared"""
        self.values = _signatures(texts, self.numbers)
        """[C, BANDS * ROWS], their signatures"""

    def copies(self) -> Copies:
        """The copies within the set; a text counts if it is a copy of an earlier one."""
        found = np.zeros(len(self.numbers), dtype=bool)
        for band in range(BANDS):
            for bucket in _buckets(self.values, band).values():
                for place, member in enumerate(bucket[1:], start=1):
                    if not found[member]:
                        rows = self.values[bucket[: min(place, MOST_IN_BUCKET)]]
                        found[member] = _most_alike(rows, self.values[member]) >= ALIKE
        exact = len(self.digests) - self.num_different
        return Copies(exact, int(found.sum()), len(self.numbers), len(self.digests))

    def copies_in(self, other: "Signatures") -> Copies:
        """The texts of `other` that are equal or nearly equal to a text of this set."""
        # numpy 2.0 cannot make a table of large unsigned integers
        exact = np.isin(other.digests, self.digests, kind="sort")
        found = np.zeros(len(other.numbers), dtype=bool)
        for band in range(BANDS):
            own = _buckets(self.values, band)
            for member, key in enumerate(_keys(other.values, band)):
                if not found[member] and (bucket := own.get(key)):
                    rows = self.values[bucket[:MOST_IN_BUCKET]]
                    found[member] = _most_alike(rows, other.values[member]) >= ALIKE
        near = found & ~exact[other.numbers]
        return Copies(int(exact.sum()), int(near.sum()), len(other.numbers), len(other.digests))


def _most_alike(rows: np.ndarray, signature: np.ndarray) -> float:
    """The share of equal hashes between a signature and the most similar signature in `rows`."""
    return float((rows == signature).mean(axis=1).max())


def _signatures(texts: Texts, numbers: np.ndarray) -> np.ndarray:
    """The MinHash signatures of these texts, [C, BANDS * ROWS] uint32."""
    generator = np.random.default_rng(0)
    mix, offset = generator.integers(0, 2**63, (2, BANDS * ROWS), dtype=np.uint64)
    found = np.empty((len(numbers), BANDS * ROWS), dtype=np.uint32)
    ends = np.cumsum(np.diff(texts.offsets)[numbers])
    start = 0
    while start < len(numbers):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + TOKENS_AT_A_TIME, side="right")))
        shingles, starts = _shingles(texts, numbers[start:stop])
        for column, (factor, shift) in enumerate(zip(mix | np.uint64(1), offset, strict=True)):
            hashes = (shingles * factor + shift) >> np.uint64(32)
            found[start:stop, column] = np.minimum.reduceat(hashes, starts)
        start = stop
    return found


def _shingles(texts: Texts, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The hashes of the shingles of these texts, and the index of each text's first shingle.

    A text with fewer than SHINGLE tokens is a single shingle.
    """
    first, lengths = texts.offsets[numbers], np.diff(texts.offsets)[numbers]
    places, owner = ranges(first, lengths)
    hashes = splitmix64(texts.ids[places].astype(np.uint64))
    left = (np.cumsum(lengths)[owner]) - np.arange(len(owner))  # tokens up to the end of the text
    found = splitmix64(hashes)
    for ahead in range(1, SHINGLE):
        longer = np.flatnonzero(left > ahead)
        found[longer] = splitmix64(found[longer] ^ hashes[longer + ahead])
    counts = np.maximum(lengths - SHINGLE + 1, 1)
    starts = np.cumsum(lengths) - lengths
    chosen, _ = ranges(starts, counts)
    return found[chosen], np.cumsum(counts) - counts


def _keys(values: np.ndarray, band: int) -> list[bytes]:
    own = np.ascontiguousarray(values[:, band * ROWS : (band + 1) * ROWS])
    return [row.tobytes() for row in own]


def _buckets(values: np.ndarray, band: int) -> dict[bytes, list[int]]:
    """Band of a signature -> the texts that have it, in ascending order."""
    found: dict[bytes, list[int]] = defaultdict(list)
    for member, key in enumerate(_keys(values, band)):
        found[key].append(member)
    return found
