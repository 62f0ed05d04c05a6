"""The values of a base model's weights that identify it in a digest."""

import torch
from torch import Tensor

SAMPLED = 64
"""The approximate number of values of each weight in the digest."""


def sample(weight: Tensor) -> bytes:
    """Some values of a weight, as bytes; empty on the meta device.

    They are cast to bf16, so that fp32 and bf16 copies of a weight have the same sample.
    """
    if weight.is_meta:
        return b""
    numbers = weight.detach().flatten()[:: max(1, weight.numel() // SAMPLED)]
    return numbers.to(torch.bfloat16).view(torch.int16).cpu().numpy().tobytes()
