"""Code: the interface of quantization formats, which pack a weight [O, I] into bytes.

Dimensions: a layer with O outputs and I inputs, N bytes.
"""

from typing import Protocol

from torch import Tensor

Shape = tuple[int, int]
"""The number of outputs and of inputs of a layer."""


class Code(Protocol):
    """A quantization format; packing and unpacking are deterministic."""

    @property
    def name(self) -> str:
        """The value of model.quantization."""

    @property
    def package(self) -> str:
        """The package that implements packing and unpacking."""

    def obstacle(self, shape: Shape) -> str:
        """The reason why a weight of this shape cannot be packed; empty if it can."""

    def num_bytes(self, shape: Shape) -> int:
        """N, the number of bytes of a packed weight of this shape."""

    def pack(self, weight: Tensor) -> Tensor:
        """fp32 [O, I] -> uint8 [N], with everything that `unpack` needs."""

    def unpack(self, packed: Tensor, shape: Shape) -> Tensor:
        """uint8 [N] -> fp32 [O, I] on the same device, which is the weight after rounding."""
