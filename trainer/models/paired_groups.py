"""Groups sequences for attention from queries of one layout to keys of another."""

import torch

from trainer.models.flat_rows import Group
from trainer.models.packing import FULL_ENOUGH, SHORT, Layout


def paired_groups(
    queries: Layout, keys: Layout, aligned_at_end: bool
) -> list[tuple[Group, Group, int]]:
    """Group the B sequences of two layouts so that in each group both lengths are similar.

    Returns for each group its queries, its keys, and the number of keys before the first query.
    That number is 0 without `aligned_at_end`. With it, queries are the last tokens of the keys'
    sequences, and the number is the difference of the lengths, the same for the whole group.
    """
    first, second = queries.lengths.tolist(), keys.lengths.tolist()
    if len(first) != len(second):
        raise ValueError(f"{len(first)} sequences of queries, {len(second)} of keys")
    extra = [s - f if aligned_at_end else 0 for f, s in zip(first, second, strict=True)]
    if queries.equal_lengths and keys.equal_lengths:
        whole = [Group((x.num_sequences, x.longest), slice(None)) for x in (queries, keys)]
        return [(whole[0], whole[1], extra[0])]
    order = sorted(range(len(first)), key=lambda n: (extra[n], -first[n], -second[n]))
    groups: list[list[int]] = []
    longest = (0, 0)
    for number in order:
        lengths = (first[number], second[number])
        same = bool(groups) and extra[number] == extra[groups[-1][0]]
        if same and all(map(_fits, lengths, longest)):
            groups[-1].append(number)
            longest = (max(longest[0], lengths[0]), max(longest[1], lengths[1]))
        else:
            groups.append([number])
            longest = lengths
    found = []
    for group in groups:
        numbers = torch.tensor(group)
        found.append((queries.group(numbers), keys.group(numbers), extra[group[0]]))
    return found


def _fits(length: int, longest: int) -> bool:
    """Whether a sequence can join a group without adding many pads."""
    shorter, longer = sorted((length, longest))
    return longer <= SHORT or shorter >= longer * FULL_ENOUGH
