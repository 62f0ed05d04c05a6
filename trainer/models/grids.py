"""Attention by plain products off the CPU: one grid of scores for each group of similar lengths.

T tokens, B sequences, the longest of L; H heads of C channels.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from trainer.models.packing import Layout

FEW_SCORES = 1 << 22
"""Up to so many scores [B, H, L, L] are one grid: the kernels of several would take longer to start
than these take to compute. An estimate from memory traffic on a T4, not a measurement."""

Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None, Layout], Tensor]
"""(query, key, value, dropout keys, layout) -> context, where all tensors are [tokens, ...]."""


def is_split_by_length(layout: Layout, num_heads: int) -> bool:
    """Whether to compute the scores of a batch in several grids.

    Not on a CPU, where sums over grids of another width would round differently than they always
    have, and not in a compiled model, whose graph must be the same for all lengths.
    """
    if layout.device.type == "cpu" or torch.compiler.is_compiling():
        return False
    scores = layout.num_sequences * num_heads * layout.longest**2
    return scores > FEW_SCORES and len(layout.by_length.layouts) > 1


def attend_by_length(
    attend: Attend, query: Tensor, key: Tensor, value: Tensor, keys: Tensor | None, layout: Layout
) -> Tensor:
    """`attend` for each group of similar lengths: query, key, value [T, ...] -> [T, ...].

    A token's dropout mask depends on its key, the head and the place of what it sees in its own
    sequence, so masks are the same in every grouping.
    """
    parts = layout.by_length
    inputs = zip(*(parts.split(x) for x in (query, key, value)), strict=True)
    masks = [None] * len(parts.layouts) if keys is None else parts.split(keys)
    found = []
    for (q, k, v), own_keys, own in zip(inputs, masks, parts.layouts, strict=True):
        found.append(attend(q, k, v, own_keys, own))
    return parts.join(found)
