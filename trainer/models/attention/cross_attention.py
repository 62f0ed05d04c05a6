"""Attention from one flat batch to another or to itself, optionally with a relative position bias.

It is used by encoder-decoders and by families that encode positions as a bias of the scores.

Dimensions: Tq queries and Tk keys in B sequences each, H heads of C channels.
"""

import torch
from torch import Tensor, nn

from trainer.models.attention.block_attention import block_attention
from trainer.models.attention.fused_attention import fits_varlen_kernel, varlen_attention
from trainer.models.attention.pairs import Pairs
from trainer.models.attention.score_bias import DistanceBias
from trainer.models.blocks.dropout import Dropout
from trainer.models.blocks.dropout_hash import head_keys


class CrossAttention(nn.Module):
    """Multi-head attention; callers compute the queries, keys and values.

    On a GPU in half precision, torch's kernel is used if there is no bias, no dropout and no
    masked key. In all other cases, plain operations compute blocks of queries. The probabilities of
    all pairs are in memory only if the caller requests them.
    """

    def __init__(
        self, num_heads: int, channels: int, dropout: float, scale: float | None = None
    ) -> None:
        """`scale` multiplies the scores; None: channels^-1/2."""
        super().__init__()
        self.num_heads = num_heads
        self.channels = channels
        self.scale = channels**-0.5 if scale is None else scale
        self.dropout = Dropout(dropout)

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        pairs: Pairs,
        dropout_keys: Tensor | None = None,
        weights_wanted: bool = False,
        bias: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """query [Tq, H x C], key and value [Tk, H x C], dropout keys [Tq] -> [Tq, H x C].

        `bias` is the table of a `DistanceBias`, a bias for each distance between query and key. The
        second result is the probabilities [B, H, Lq, Lk], if `weights_wanted`.
        """
        shape = (self.num_heads, self.channels)
        query, key, value = (x.unflatten(1, shape) for x in (query, key, value))
        if weights_wanted:
            context, weights = self._plain(query, key, value, pairs, dropout_keys, bias)
            return context.flatten(1), weights
        if bias is None and self._fits_kernel(query, pairs):
            sides = (-1, 0) if pairs.causal else (-1, -1)
            query = query * (self.scale * self.channels**0.5)  # the kernel multiplies by C^-1/2
            context = varlen_attention(
                query, key, value, pairs.queries, sides, keys_layout=pairs.keys
            )
            return context.flatten(1), None
        context = block_attention(
            query,
            key,
            value,
            pairs,
            scale=self.scale,
            bias=None if bias is None else DistanceBias(bias),
            dropout=self.dropout,
            dropout_keys=dropout_keys,
        )
        return context.flatten(1), None

    def _fits_kernel(self, query: Tensor, pairs: Pairs) -> bool:
        half = query.dtype in (torch.float16, torch.bfloat16)
        simple = not self.dropout.active and pairs.keys.visible is None
        return half and simple and fits_varlen_kernel(query.device, self.channels)

    def _plain(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        pairs: Pairs,
        dropout_keys: Tensor | None,
        bias: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Compute attention in one grid. Returns the context and the probabilities of all pairs."""
        queries, keys = pairs.queries, pairs.keys
        q = queries.to_grid(query).transpose(1, 2)
        k, v = (keys.to_grid(x).transpose(1, 2) for x in (key, value))
        distance = _distances(pairs)
        scores = (q * self.scale) @ k.transpose(-1, -2)
        if bias is not None:
            scores = scores + DistanceBias(bias).scores(q, k, distance)
        seen = keys.visible_keys
        if pairs.causal:
            before = (distance <= 0).unsqueeze(1)
            seen = before if seen is None else before & seen | (distance == 0).unsqueeze(1)
        if seen is not None:
            scores = scores.masked_fill(~seen, -torch.inf)
        weights = scores.softmax(-1).to(v.dtype)
        grid = None
        if dropout_keys is not None:
            grid = head_keys(queries.to_grid(dropout_keys), self.num_heads)
        weights = self.dropout(weights, grid)
        return queries.from_grid((weights @ v).transpose(1, 2)), weights


def _distances(pairs: Pairs) -> Tensor:
    """[B or 1, Lq, Lk], the number of positions from each query to each key."""
    queries, keys = pairs.queries, pairs.keys
    row = torch.arange(queries.longest, device=queries.device).view(1, -1, 1)
    if pairs.causal:
        row = row + (keys.device_lengths - queries.device_lengths).view(-1, 1, 1)
    return torch.arange(keys.longest, device=keys.device) - row
