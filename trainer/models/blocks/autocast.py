"""Casting to the dtype of autocast."""

import torch
from torch import Tensor


def to_autocast_type(x: Tensor) -> Tensor:
    """Return x in the dtype of the active autocast, if any, so that later layers use it too."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x
