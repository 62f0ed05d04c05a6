"""Weights as 4-bit normal floats (QLoRA; Dettmers et al., 2023), rounded by bitsandbytes."""

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake

from trainer.models.quantization.code import Shape

BLOCK = 64
"""The number of weights in a block; they share a scale."""
OUTER = 256
"""The number of blocks whose scales are quantized together (double quantization)."""
_KNOWN_LEVELS: dict[torch.device, tuple[Tensor, Tensor]] = {}


@dataclass(frozen=True)
class NormalFloat4:
    """NF4 with double quantization, as in the paper: 4.127 bits per weight."""

    name: str = "nf4"
    package: str = "bitsandbytes"

    def obstacle(self, shape: Shape) -> str:
        return "an odd number of weights; accepted: an even one" if prod(shape) % 2 else ""

    def num_bytes(self, shape: Shape) -> int:
        return sum(_sizes(shape))

    @torch.no_grad()
    def pack(self, weight: Tensor) -> Tensor:
        from bitsandbytes.functional import quantize_4bit

        # as a single row: the CPU kernel is wrong for rows that are not a multiple of the block
        numbers, state = quantize_4bit(
            weight.flatten(), blocksize=BLOCK, compress_statistics=True, quant_type="nf4"
        )
        parts = (state.offset.view(1), state.state2.absmax, state.absmax, numbers)
        return torch.cat([part.contiguous().view(torch.uint8).flatten() for part in parts])

    @torch.no_grad()
    def unpack(self, packed: Tensor, shape: Shape) -> Tensor:
        from bitsandbytes.functional import QuantState, dequantize_4bit

        offset, outer, scales, numbers = packed.split(_sizes(shape))
        levels, outer_levels = _levels(packed.device)
        state = QuantState(
            absmax=scales,
            shape=torch.Size([prod(shape)]),
            code=levels,
            blocksize=BLOCK,
            quant_type="nf4",
            dtype=torch.float32,
            offset=offset.view(torch.float32)[0],
            state2=QuantState(
                absmax=outer.view(torch.float32),
                code=outer_levels,
                blocksize=OUTER,
                dtype=torch.float32,
            ),
        )
        weight: Tensor = dequantize_4bit(numbers.view(-1, 1), state)
        return weight.view(shape)


def _sizes(shape: Shape) -> list[int]:
    """The bytes of the mean scale, the outer scales (one per OUTER blocks), scales and weights."""
    blocks = -(-prod(shape) // BLOCK)
    return [4, 4 * -(-blocks // OUTER), blocks, prod(shape) // 2]


def _levels(device: torch.device) -> tuple[Tensor, Tensor]:
    """The 16 values of a weight and the 256 values of a scale, relative to the largest value."""
    if device not in _KNOWN_LEVELS:
        from bitsandbytes.functional import create_dynamic_map, get_4bit_type

        levels = get_4bit_type("nf4", device=device), create_dynamic_map().to(device)
        if is_fake(levels[0]):  # a tensor without values, in a memory plan
            return levels
        _KNOWN_LEVELS[device] = levels
    return _KNOWN_LEVELS[device]
