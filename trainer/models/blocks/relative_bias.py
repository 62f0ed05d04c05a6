"""Relative position bias: a number for each head and distance, added to attention scores."""

import math

import torch
from torch import Tensor, nn


class RelativeBias(nn.Module):
    """T5's relative bias (Raffel et al., 2020): a learned number per head and bucket of distances.

    Each short distance has its own bucket; longer distances share logarithmic buckets. Distances
    from `max_distance` on share the last bucket.
    """

    def __init__(
        self, num_heads: int, num_buckets: int, max_distance: int, bidirectional: bool
    ) -> None:
        super().__init__()
        self.num_buckets = num_buckets
        self.max_distance = max_distance
        self.bidirectional = bidirectional
        self.table = nn.Embedding(num_buckets, num_heads)

    def forward(self, longest: int) -> Tensor:
        """[H, 2 longest - 1]: column longest - 1 + d is for a key d positions after the query."""
        device = self.table.weight.device
        distance = torch.arange(1 - longest, longest, device=device)
        values: Tensor = self.table(self.buckets(distance))
        return values.T.contiguous()

    def buckets(self, distance: Tensor) -> Tensor:
        """The bucket of each distance from query to key; earlier keys have negative distances."""
        half, first = self.num_buckets, torch.zeros_like(distance)
        if self.bidirectional:  # half of the buckets per direction
            half //= 2
            first = (distance > 0) * half
            away = distance.abs()
        else:
            away = -distance.clamp(max=0)
        exact = half // 2
        ratio = (away.clamp(min=1).float() / exact).log() / math.log(self.max_distance / exact)
        far = (exact + (ratio * (half - exact)).long()).clamp(max=half - 1)
        return first + torch.where(away < exact, away, far)
