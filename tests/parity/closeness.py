"""Comparison of fp32 tensors that two packages compute, on any CPU."""

from torch import Tensor

ROUNDING = 1e-5
"""About 80 roundings, which errors add up to in the layers of a small model.

With three times a CPU's errors in each matrix product, at random, up to 62 were found.
"""


def assert_equal_in_fp32(found: Tensor, wanted: Tensor, passes: int = 1, name: str = "") -> None:
    """Equal but for rounding, as a whole: errors of single entries depend on the CPU's kernels.

    `passes` is 2 for gradients, which come after a forward and a backward pass.
    """
    assert found.shape == wanted.shape, name
    error, size = (found - wanted).norm(), wanted.norm()
    assert error <= ROUNDING * passes * size, f"{name}: an error of {error / size:.2g}"
