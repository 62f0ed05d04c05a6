"""Rotary position embeddings (Su et al., 2021): queries and keys turned by their positions."""

import torch
from torch import Tensor


def angles(position_ids: Tensor, channels: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines, fp32 [T, channels / 2], of position_ids [T]."""
    exponents = torch.arange(0, channels, 2, device=position_ids.device).float() / channels
    turns = position_ids.float().unsqueeze(1) * (1.0 / theta**exponents)
    return turns.cos(), turns.sin()


def rotate(x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """x [T, heads x channels] turned: channel c of a head goes with c + channels / 2."""
    cosines, sines = (turn.unsqueeze(1) for turn in turns)
    wide = x if x.dtype == torch.float64 else x.float()
    one, other = wide.unflatten(1, (-1, 2 * cosines.shape[-1])).chunk(2, -1)
    turned = torch.cat((one * cosines - other * sines, other * cosines + one * sines), -1)
    return turned.flatten(1).to(x.dtype)
