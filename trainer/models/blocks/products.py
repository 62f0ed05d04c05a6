"""Matrix products of half-precision operands with fp32 results, if the device supports them."""

from functools import lru_cache

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake

HALF = (torch.float16, torch.bfloat16)


def wide_product(a: Tensor, b: Tensor) -> Tensor:
    """Return `a` [M, K] @ `b` [K, N] in at least fp32; without device support, it is cast."""
    if a.dtype in HALF and _device_widens(a):
        return torch.mm(a, b, out_dtype=torch.float32)
    product = a @ b
    return product.float() if product.dtype in HALF else product


def add_product_(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add `a` [M, K] @ `b` [K, N] to `total` [M, N], in the dtype of `total`."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    elif a.dtype in HALF and total.dtype == torch.float32 and _device_widens(a):
        torch.addmm(total, a, b, out_dtype=torch.float32, out=total)
    else:
        total.add_(a @ b)


def _device_widens(a: Tensor) -> bool:
    if a.device.type != "cuda" or torch.compiler.is_compiling():
        return False
    return is_fake(a) or _works(a.device, a.dtype)


@lru_cache(maxsize=64)
def _works(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this build of torch supports `out_dtype` in mm and addmm."""
    a, total = torch.ones(16, 16, device=device, dtype=dtype), torch.ones(16, 16, device=device)
    try:
        with torch.no_grad():
            torch.addmm(total, a, a, out_dtype=torch.float32, out=total)
            product = torch.mm(a, a, out_dtype=torch.float32)
            return bool(((total == 17) & (product == 16)).all())
    except (RuntimeError, TypeError):
        return False
