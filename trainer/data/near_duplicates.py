"""Near-duplicates: groups of source texts that are variations of each other, found with MinHash."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING
from zlib import crc32

if TYPE_CHECKING:
    import numpy as np

SHINGLE = 4
"""The number of consecutive tokens in a shingle."""
BANDS, ROWS = 16, 4
"""16 bands of 4 hashes: two texts with the similarity `ALIKE` are equal in one or more bands with a
probability of 0.9."""
ALIKE = 0.6
"""The smallest share of equal hashes with which two texts count as near-duplicates.

The share is an estimate of the Jaccard index of their shingles.
"""

_STRING = r"""[a-zA-Z]{0,2}(?:'{3}.*?'{3}|"{3}.*?"{3}|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*")"""
_TOKEN = re.compile(
    rf"#[^\n]*|(?P<string>{_STRING})|(?P<number>\d[\w.]*)|(?P<other>\w+|\S)", re.DOTALL
)


def near_duplicates(sources: Sequence[str]) -> "np.ndarray":
    """The group of each source, [N], given as the index of the group's first member.

    Comments and whitespace are ignored, and all strings (docstrings too) and all numbers count as
    equal. Groups are transitive: a and c share one if both are near-duplicates of b. MinHash is
    from Broder, On the resemblance and containment of documents (1997).
    """
    import numpy as np

    signatures = _signatures(sources)
    group = list(range(len(sources)))
    for bucket in _buckets(signatures):
        for i, member in enumerate(bucket):
            alike = (signatures[bucket[i:]] == signatures[member]).mean(axis=1) >= ALIKE
            for other in bucket[i:][alike]:
                _join(group, int(member), int(other))
    return np.array([_first(group, i) for i in range(len(sources))], dtype=np.int64)


def _signatures(sources: Sequence[str]) -> "np.ndarray":
    """MinHash of the shingles of each source, [N, BANDS * ROWS]."""
    import numpy as np

    generator = np.random.default_rng(0)
    mix, offset = generator.integers(0, 2**63, (2, BANDS * ROWS, 1), dtype=np.uint64)
    weights = generator.integers(0, 2**63, SHINGLE, dtype=np.uint64)
    signatures = np.empty((len(sources), BANDS * ROWS), dtype=np.uint64)
    for row, source in zip(signatures, sources, strict=True):
        tokens = np.array(list(_token_hashes(source)), dtype=np.uint64)
        windows = np.lib.stride_tricks.sliding_window_view(tokens, SHINGLE)
        shingles = np.unique(windows @ weights)
        row[:] = ((shingles * (mix | np.uint64(1)) + offset) >> np.uint64(32)).min(axis=1)
    return signatures


def _token_hashes(source: str) -> Iterator[int]:
    """Yield a hash of each token, then padding, so that every source has a shingle."""
    for match in _TOKEN.finditer(source):
        if match.lastgroup:
            kind = match.lastgroup
            yield crc32((match.group() if kind == "other" else f"<{kind}>").encode())
    yield from range(SHINGLE)


def _buckets(signatures: "np.ndarray") -> Iterator["np.ndarray"]:
    """Yield groups of sources that have an equal band, each in ascending order."""
    import numpy as np

    for band in np.split(signatures, BANDS, axis=1):
        buckets: dict[bytes, list[int]] = defaultdict(list)
        for i, row in enumerate(band):
            buckets[row.tobytes()].append(i)
        yield from (np.array(bucket) for bucket in buckets.values() if len(bucket) > 1)


def _join(group: list[int], a: int, b: int) -> None:
    a, b = _first(group, a), _first(group, b)
    group[max(a, b)] = min(a, b)


def _first(group: list[int], i: int) -> int:
    """The first member of the group of i, with path halving (union-find)."""
    while group[i] != i:
        group[i] = group[group[i]]
        i = group[i]
    return i
