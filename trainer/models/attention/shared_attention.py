"""Causal attention of a rank's own tokens to the keys of all ranks (context parallelism).

Dimensions: the rank owns t tokens, in pieces of sequences; H query heads, K key heads of C
channels.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from trainer.models.attention.block_attention import block_attention
from trainer.models.attention.block_grids import BLOCK
from trainer.models.attention.fused_attention import fits_varlen_kernel, varlen_attention
from trainer.models.attention.pairs import Pairs
from trainer.models.blocks.dropout import Dropout
from trainer.models.blocks.dropout_hash import head_keys
from trainer.models.blocks.softcap import capped
from trainer.models.context_share import PartLayout


def shared_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    part: PartLayout,
    *,
    scale: float,
    window: int | None,
    softcap: float | None,
    dropout: Dropout,
    dropout_keys: Tensor | None,
) -> Tensor:
    """query [t, H, C], key and value [t, K, C] of this rank -> [t, H, C].

    Dropout masks equal those of the whole sequences: they depend on the head, the query's dropout
    key and the position of the key. On a GPU in half precision, torch's kernel is used if there is
    no dropout and no cap. In all other cases, blocks of queries are computed.
    """
    heads = query.shape[1]
    gathered = part.gather_keys(torch.cat((key, value), -1))
    key, value = gathered.index_select(0, part.key_rows).chunk(2, -1)
    half = query.dtype in (torch.float16, torch.bfloat16)
    plain = not dropout.active and softcap is None
    if half and plain and fits_varlen_kernel(query.device, query.shape[2]):
        sides = (-1 if window is None else window, 0)
        key, value = key.contiguous(), value.contiguous()
        return varlen_attention(query, key, value, part, sides, keys_layout=part.keys, scale=scale)
    key, value = (x.repeat_interleave(heads // x.shape[1], 1) for x in (key, value))
    if softcap is None and window is None:
        pairs = Pairs(part, part.keys, causal=True)
        return block_attention(
            query, key, value, pairs, scale=scale, dropout=dropout, dropout_keys=dropout_keys
        )
    blocks = [
        checkpoint(_attend, *block, scale, window, softcap, dropout, use_reentrant=False)
        for block in _blocks(query, key, value, part, dropout_keys)
    ]
    return torch.cat(blocks)


def _blocks(
    query: Tensor, key: Tensor, value: Tensor, part: PartLayout, dropout_keys: Tensor | None
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor | None, int]]:
    """Yield blocks of queries, with their keys and values, dropout keys and first position."""
    row = seen = 0
    for size, end in zip(part.lengths.tolist(), part.keys.lengths.tolist(), strict=True):
        for start in range(0, size, BLOCK):
            rows = slice(row + start, row + min(start + BLOCK, size))
            position = end - size + start
            keys = slice(seen, seen + position + rows.stop - rows.start)
            drawn = None if dropout_keys is None else dropout_keys[rows]
            yield query[rows], key[keys], value[keys], drawn, position
        row, seen = row + size, seen + end


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout_keys: Tensor | None,
    position: int,
    scale: float,
    window: int | None,
    softcap: float | None,
    dropout: Dropout,
) -> Tensor:
    """query [n, H, C] at positions from `position` on, key and value [s, H, C] -> [n, H, C]."""
    q, k, v = (x.transpose(0, 1) for x in (query, key, value))
    scores = capped((q * scale) @ k.transpose(-1, -2), softcap)
    positions = torch.arange(position, position + len(query), device=query.device).unsqueeze(1)
    before = positions - torch.arange(len(key), device=query.device)
    hidden = before < 0 if window is None else (before < 0) | (before > window)
    weights = scores.masked_fill(hidden, -torch.inf).softmax(-1).to(v.dtype)
    keys = None if dropout_keys is None else head_keys(dropout_keys[None], len(q))[0]
    return (dropout(weights, keys) @ v).transpose(0, 1)
