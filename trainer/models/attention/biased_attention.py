"""Self-attention of a flat batch with a bias on its scores, for encoders.

Dimensions: T tokens in B sequences, the longest of L tokens; H heads of C channels, D = H x C.
"""

import torch
from torch import Tensor, nn

from trainer.models.attention.block_attention import block_attention
from trainer.models.attention.grids import is_split_in_blocks
from trainer.models.attention.pairs import Pairs
from trainer.models.attention.score_bias import ScoreBias
from trainer.models.blocks.dropout import Dropout
from trainer.models.blocks.dropout_hash import head_keys
from trainer.models.blocks.linear import Linear, joined_linear


class BiasedAttention(nn.Module):
    """Multi-head attention; subclasses provide the bias of the scores.

    It is computed for blocks of queries, so that the probabilities of all pairs are never in memory
    at once. One grid is used if the caller requests the probabilities, and also if the model is
    compiled or needs a mask of pairs, unless `is_split_in_blocks` requires blocks.
    """

    def __init__(self, size: int, num_heads: int, dropout: float, scale: float) -> None:
        """`scale` multiplies the scores."""
        super().__init__()
        self.num_heads, self.scale = num_heads, scale
        self.query, self.key, self.value, self.output = (Linear(size, size) for _ in range(4))
        self.dropout = Dropout(dropout)

    def attend(
        self,
        x: Tensor,
        bias: ScoreBias | None,
        pairs: Pairs,
        dropout_keys: Tensor | None,
        weights_wanted: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """x [T, D], dropout keys [T] -> ([T, D], probabilities [B, H, L, L] if wanted)."""
        projected = joined_linear(x, (self.query, self.key, self.value))
        query, key, value = (each.unflatten(1, (self.num_heads, -1)) for each in projected)
        weights = None
        layout = pairs.keys
        may_need_grid = layout.needs_mask or torch.compiler.is_compiling()
        in_grid = may_need_grid and not is_split_in_blocks(layout, self.num_heads)
        if weights_wanted or in_grid:
            context, weights = self._plain(query, key, value, bias, pairs, dropout_keys)
        else:
            context = block_attention(
                query,
                key,
                value,
                pairs,
                scale=self.scale,
                bias=bias,
                dropout=self.dropout,
                dropout_keys=dropout_keys,
            )
        return self.output(context.flatten(1)), weights if weights_wanted else None

    def _plain(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bias: ScoreBias | None,
        pairs: Pairs,
        dropout_keys: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """query, key, value [T, H, C] -> [T, H, C], and probabilities [B, H, L, L]."""
        layout = pairs.keys
        q, k, v = (layout.to_grid(x).transpose(1, 2) for x in (query * self.scale, key, value))
        scores = q @ k.transpose(-1, -2)
        if bias is not None:
            positions = torch.arange(layout.longest, device=q.device)
            scores = scores + bias.scores(q, k, (positions - positions.unsqueeze(1)).unsqueeze(0))
        seen = layout.visible_pairs()
        if seen is not None and seen.dtype == torch.bool:
            scores = scores.masked_fill(~seen, -torch.inf)
        elif seen is not None:
            scores = scores + seen
        weights = scores.softmax(-1).to(v.dtype)
        grid = None
        if dropout_keys is not None:
            grid = head_keys(layout.to_grid(dropout_keys), self.num_heads)
        weights = self.dropout(weights, grid)
        shown, weights = layout.attentions_through_caller(weights)
        return layout.from_grid((weights @ v).transpose(1, 2)), shown
