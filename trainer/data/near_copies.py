"""Near-copies: which source texts are variations of one another, found with MinHash."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING
from zlib import crc32

if TYPE_CHECKING:
    import numpy as np

SHINGLE = 4
"""Tokens in a row that make one shingle."""
BANDS, ROWS = 16, 4
"""16 bands of 4 hashes: two texts at `ALIKE` are compared with a probability of 0.9."""
ALIKE = 0.6
"""Share of equal hashes (it estimates the Jaccard index of the shingles) that makes a near-copy."""

_STRING = r"""[a-zA-Z]{0,2}(?:'{3}.*?'{3}|"{3}.*?"{3}|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*")"""
_TOKEN = re.compile(
    rf"#[^\n]*|(?P<string>{_STRING})|(?P<number>\d[\w.]*)|(?P<other>\w+|\S)", re.DOTALL
)


def near_copies(sources: Sequence[str]) -> "np.ndarray":
    """The group of each source, [N]: near-copies share one, and its number is its first member.

    Comments and whitespace do not count, and all strings (documentation too) and all numbers are
    equal. Groups grow by links: a and c may share one through b. MinHash: Broder, On the
    resemblance and containment of documents (1997).
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
    """A hash of each token that counts, then filling so that every source has a shingle."""
    for match in _TOKEN.finditer(source):
        if match.lastgroup:
            kind = match.lastgroup
            yield crc32((match.group() if kind == "other" else f"<{kind}>").encode())
    yield from range(SHINGLE)


def _buckets(signatures: "np.ndarray") -> Iterator["np.ndarray"]:
    """The sources that agree on a whole band, in ascending order."""
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
    """The first member of the group that i belongs to; the path to it is shortened on the way."""
    while group[i] != i:
        group[i] = group[group[i]]
        i = group[i]
    return i
