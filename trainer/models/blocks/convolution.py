"""Convolution along the tokens of each sequence of a flat batch.

Dimensions: T tokens, D channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.packing import Layout


class TokenConvolution(nn.Module):
    """A convolution over neighboring tokens, with zeros beyond the ends of a sequence."""

    def __init__(self, size: int, width: int, groups: int) -> None:
        """`width` is the kernel size in tokens, an odd number."""
        super().__init__()
        self.conv = nn.Conv1d(size, size, width, groups=groups)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """x [T, D] -> [T, D]; masked tokens count as zeros.

        The sequences are laid out in one row, with enough zeros between them that they do not mix.
        """
        reach = self.conv.kernel_size[0] // 2
        seen, keys = layout.visible, layout.visible_keys
        if layout.needs_mask and keys is not None:
            seen = keys.flatten()
        if seen is not None:
            x = x.masked_fill(~seen.unsqueeze(1), 0)
        sequence = layout.slots // layout.longest
        columns = torch.arange(layout.num_tokens, device=x.device) + reach * (sequence + 1)
        width = layout.num_tokens + reach * (layout.num_sequences + 1)
        row = x.new_zeros(width, x.shape[1]).index_copy(0, columns, x).T.unsqueeze(0)
        found = F.conv1d(row, self.conv.weight, self.conv.bias, groups=self.conv.groups)
        return found[0].T.index_select(0, columns - reach)
