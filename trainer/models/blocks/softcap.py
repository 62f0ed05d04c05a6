"""Soft caps of scores: c tanh(x / c), which stays between -c and c (Gemma 2, 2024, section 2)."""

import torch
from torch import Tensor


def capped(x: Tensor, cap: float | None) -> Tensor:
    """Return x, capped unless `cap` is None."""
    return x if cap is None else torch.tanh(x / cap) * cap


def cap_(x: Tensor, cap: float | None) -> Tensor:
    """Like `capped`, but in place and without autograd."""
    return x if cap is None else x.div_(cap).tanh_().mul_(cap)


def slope_of(values: Tensor, cap: float) -> Tensor:
    """The derivative of `capped`, computed from its output."""
    return 1 - (values / cap).square()
