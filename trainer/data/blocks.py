"""Blocks: documents cut, in order, into samples of so many tokens that keep their boundaries."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Blocks:
    """The size of a block. A document that ends inside of one is followed by the next."""

    max_length: int
    """Tokens of a block, those that it repeats included; the last one may be shorter."""
    stride: int = 0
    """Tokens that the rest of a document repeats of its part in the block before, as context."""


def cut(arrays: Mapping[str, np.ndarray], blocks: Blocks) -> dict[str, np.ndarray]:
    """The arrays of a table of documents as those of a table of blocks, each a sample.

    A block's sequences are parts of documents. The field `context` [S] tells how many tokens at
    the beginning of each are repeated, so that every token is learnt once. `rows` [N] are the
    documents that the blocks begin in.
    """
    ends = arrays["sequence_offsets"]
    starts, repeated = _places(ends, blocks)
    sequences = np.union1d(starts, ends[:-1])
    sample_offsets = np.searchsorted(sequences, np.append(starts, ends[-1]))
    context = np.zeros(len(sequences), dtype=np.int64)
    context[sample_offsets[:-1]] = repeated
    lengths = np.diff(np.append(sequences, ends[-1])) + context
    tokens = arrays["input_ids"]
    if context.any():
        tokens = tokens[ranges(sequences - context, lengths)[0]]
    return {
        "input_ids": tokens,
        "sequence_offsets": np.concatenate([[0], np.cumsum(lengths)]),
        "sample_offsets": sample_offsets,
        "field.context": context,
        "rows": arrays["rows"][np.searchsorted(ends, starts, side="right") - 1],
    }


def _places(ends: np.ndarray, blocks: Blocks) -> tuple[np.ndarray, np.ndarray]:
    """The first new token of each block, and how many tokens before it the block repeats."""
    total = int(ends[-1])
    if not blocks.stride:
        whole = np.arange(0, total, blocks.max_length)
        return whole, np.zeros_like(whole)
    known = ends.tolist()
    starts: list[int] = []
    repeated: list[int] = []
    start = 0
    while start < total:
        begun = known[bisect_right(known, start) - 1]
        starts.append(start)
        repeated.append(min(blocks.stride, start - begun))
        start += blocks.max_length - repeated[-1]
    return np.array(starts), np.array(repeated)


def ranges(starts: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers starts[i] .. starts[i] + lengths[i] - 1 for every i, and the i of each."""
    owner = np.repeat(np.arange(len(lengths)), lengths)
    ends = np.cumsum(lengths)
    shift = starts - ends + lengths
    return np.arange(len(owner)) + shift[owner], owner
