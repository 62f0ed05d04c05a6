"""Blocks: every token of every document once, in order, with boundaries and context."""

from typing import Any

import numpy as np
import pytest

from trainer.data.blocks import Blocks, cut


def documents(lengths: list[int]) -> dict[str, np.ndarray]:
    """Documents whose tokens tell their origin: 100 * document + position."""
    tokens = [100 * d + t for d, length in enumerate(lengths) for t in range(length)]
    return {
        "input_ids": np.array(tokens, dtype=np.int32),
        "sequence_offsets": np.concatenate([[0], np.cumsum(lengths)]),
        "sample_offsets": np.arange(len(lengths) + 1),
        "rows": np.arange(len(lengths)),
    }


def blocks_of(arrays: dict[str, np.ndarray]) -> list[list[tuple[int, list[int]]]]:
    """Each block as its parts: (tokens that are context, tokens)."""
    ends, context = arrays["sequence_offsets"], arrays["field.context"]
    parts = [
        (int(context[s]), arrays["input_ids"][ends[s] : ends[s + 1]].tolist())
        for s in range(len(ends) - 1)
    ]
    edges = arrays["sample_offsets"]
    return [parts[edges[n] : edges[n + 1]] for n in range(len(edges) - 1)]


@pytest.mark.parametrize("stride", [0, 1, 2, 3])
@pytest.mark.parametrize("seed", range(20))
def test_every_token_is_new_in_one_block(seed: int, stride: int) -> None:
    rng = np.random.default_rng(seed)
    given = documents(rng.integers(1, 17, size=rng.integers(1, 12)).tolist())
    found = blocks_of(cut(given, Blocks(max_length=5, stride=stride)))
    new = [token for block in found for context, part in block for token in part[context:]]
    assert new == given["input_ids"].tolist()
    assert all(sum(len(part) for _, part in block) == 5 for block in found[:-1])
    assert 0 < sum(len(part) for _, part in found[-1]) <= 5
    for block in found:
        for number, (context, part) in enumerate(block):
            assert len({token // 100 for token in part}) == 1  # parts of one document
            assert part == list(range(part[0], part[0] + len(part)))
            begun = (part[0] + context) % 100
            assert context == (min(stride, begun) if number == 0 else 0)
    assert cut(given, Blocks(5, stride))["rows"].tolist() == [
        (block[0][1][0] + block[0][0]) // 100 for block in found
    ]


def test_a_small_case_by_hand() -> None:
    given = documents([3, 6])
    assert blocks_of(cut(given, Blocks(4))) == [
        [(0, [0, 1, 2]), (0, [100])],
        [(0, [101, 102, 103, 104])],
        [(0, [105])],
    ]
    assert blocks_of(cut(given, Blocks(4, stride=2))) == [
        [(0, [0, 1, 2]), (0, [100])],
        [(1, [100, 101, 102, 103])],
        [(2, [102, 103, 104, 105])],
    ]


def test_without_overlap_no_token_is_copied() -> None:
    given: Any = documents([7, 9, 2])
    assert cut(given, Blocks(5))["input_ids"] is given["input_ids"]
