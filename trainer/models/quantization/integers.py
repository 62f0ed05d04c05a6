"""Weights as 8-bit or 4-bit integers, rounded by torchao.

Dimensions: a layer with O outputs and I inputs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.models.blocks.leaves import Leaf
from trainer.models.quantization.code import Shape

GROUPS = (64, 32, 16)
"""Possible group sizes of 4-bit weights; the largest divisor of the number of inputs is used."""
SCALE = torch.float32


@dataclass(frozen=True)
class Int8:
    """8 bits per weight, and a scale for each output (torchao's Int8WeightOnlyConfig)."""

    name: str = "int8"
    package: str = "torchao"

    def obstacle(self, shape: Shape) -> str:
        return ""

    def num_bytes(self, shape: Shape) -> int:
        return shape[0] * (shape[1] + SCALE.itemsize)

    def pack(self, weight: Tensor) -> Tensor:
        numbers, scales, _ = _rounded(weight, weight.shape[1], bits=8, symmetric=True)
        return _joined(scales, numbers)

    def unpack(self, packed: Tensor, shape: Shape) -> Tensor:
        scales, numbers = packed.split([4 * shape[0], shape[0] * shape[1]])
        return _scaled(numbers.view(torch.int8).view(shape), scales.view(SCALE).view(-1, 1))


@dataclass(frozen=True)
class Int4:
    """4 bits per weight, and a scale and a zero point for each group of an output's inputs.

    This is torchao's asymmetric IntxWeightOnlyConfig. A byte holds two weights: one from the first
    half of an output's inputs and one from the second half. With groups of 64, a weight takes 4.6
    bits.
    """

    name: str = "int4"
    package: str = "torchao"

    def obstacle(self, shape: Shape) -> str:
        if shape[1] % GROUPS[-1]:
            return f"{shape[1]} inputs; accepted: a multiple of {GROUPS[-1]}"
        return ""

    def num_bytes(self, shape: Shape) -> int:
        groups = shape[1] // _group(shape[1])
        return shape[0] * (shape[1] // 2 + groups * (SCALE.itemsize + 1))

    def pack(self, weight: Tensor) -> Tensor:
        numbers, scales, zeros = _rounded(weight, _group(weight.shape[1]), bits=4, symmetric=False)
        first, second = (numbers + 8).view(torch.uint8).chunk(2, dim=1)
        return _joined(scales, zeros, first | second << 4)

    def unpack(self, packed: Tensor, shape: Shape) -> Tensor:
        groups = shape[0] * shape[1] // _group(shape[1])
        scales, zeros, pairs = packed.split([4 * groups, groups, shape[0] * shape[1] // 2])
        grid = shape[0], -1, 1
        return _from_pairs(
            pairs.view(shape[0], -1),
            scales.view(SCALE).view(grid),
            zeros.view(torch.int8).view(grid),
        )


def _group(inputs: int) -> int:
    return next(size for size in GROUPS if inputs % size == 0)


@torch.no_grad()
def _rounded(
    weight: Tensor, group: int, bits: int, symmetric: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the rounded weight int8 [O, I], and scales and zero points [O, I / group]."""
    from torchao.quantization.quant_primitives import (
        MappingType,
        choose_qparams_affine,
        quantize_affine,
    )

    kind = MappingType.SYMMETRIC if symmetric else MappingType.ASYMMETRIC
    block, low, high = (1, group), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    scales, zeros = choose_qparams_affine(
        weight,
        kind,
        block,
        torch.int8,
        low,
        high,
        eps=torch.finfo(SCALE).eps,
        scale_dtype=SCALE,
        zero_point_dtype=torch.int8,
        keepdim=True,
    )
    return quantize_affine(weight, block, scales, zeros, torch.int8, low, high), scales, zeros


def _joined(*parts: Tensor) -> Tensor:
    return torch.cat([part.contiguous().view(torch.uint8).flatten() for part in parts])


def _int8_times_scale(numbers: Tensor, scales: Tensor) -> Tensor:
    return numbers.to(SCALE) * scales


def _int4_times_scale(pairs: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
    """pairs [O, I / 2], scales and zeros [O, groups, 1] -> [O, I]."""
    numbers = torch.cat([pairs & 15, pairs >> 4], dim=1).to(SCALE)
    grouped = numbers.view(*scales.shape[:2], -1)
    return ((grouped - (zeros.to(SCALE) + 8)) * scales).view(numbers.shape)


_scaled = Leaf(_int8_times_scale)
_from_pairs = Leaf(_int4_times_scale)
