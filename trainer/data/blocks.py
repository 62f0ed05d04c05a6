"""Blocks: documents cut into samples of a fixed length that keep the document boundaries."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Blocks:
    """The size of blocks. If a document ends within a block, the next document follows in it."""

    max_length: int
    """Tokens per block, including repeated tokens; the last block may be shorter."""
    stride: int = 0
    """The number of tokens that a block repeats from the previous one, as context, if a document
    continues."""


def cut(arrays: Mapping[str, np.ndarray], blocks: Blocks) -> dict[str, np.ndarray]:
    """Convert the arrays of a table of documents to those of a table with a block per sample.

    The sequences of a block are parts of documents. The field `context` [S] counts the repeated
    tokens at the start of each sequence, so that every token is trained on once. `sequence_rows`
    [S] has the document of each sequence, and `rows` [N] the document in which each block starts.
    Other fields have an entry for each token.
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
    # a recipe that cuts blocks has only fields with an entry for each token
    fields = {n: array for n, array in arrays.items() if n.startswith("field.")}
    if context.any():
        chosen = ranges(sequences - context, lengths)[0]
        fields = {name: array[chosen] for name, array in fields.items()}
    return fields | {
        "input_ids": tokens,
        "sequence_offsets": np.concatenate([[0], np.cumsum(lengths)]),
        "sample_offsets": sample_offsets,
        "field.context": context,
        "rows": arrays["rows"][np.searchsorted(ends, starts, side="right") - 1],
        "sequence_rows": arrays["rows"][np.searchsorted(ends, sequences, side="right") - 1],
    }


def _places(ends: np.ndarray, blocks: Blocks) -> tuple[np.ndarray, np.ndarray]:
    """For each block: its first token that is not repeated, and its number of repeated tokens."""
    total = int(ends[-1])
    if not blocks.stride:
        whole = np.arange(0, total, blocks.max_length)
        return whole, np.zeros_like(whole)
    known = ends.tolist()
    starts: list[int] = []
    repeated: list[int] = []
    start = 0
    while start < total:
        document_start = known[bisect_right(known, start) - 1]
        starts.append(start)
        repeated.append(min(blocks.stride, start - document_start))
        start += blocks.max_length - repeated[-1]
    return np.array(starts), np.array(repeated)


def ranges(starts: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The indices starts[i] .. starts[i] + lengths[i] - 1 for every i, and the i of each index."""
    owner = np.repeat(np.arange(len(lengths)), lengths)
    ends = np.cumsum(lengths)
    shift = starts - ends + lengths
    return np.arange(len(owner)) + shift[owner], owner
