"""Trials: a kernel is tested on a small batch before its first use, and disabled if it fails."""

import warnings
from collections.abc import Callable

import torch
from torch._guards import active_fake_mode

from trainer.models.attention.triton_device import SWITCH


def passes(what: str, device: torch.device, error: Callable[[], float], limit: float) -> bool:
    """Whether `error`, which runs the kernel, returns at most `limit`.

    If it does not, or if it raises, a warning gives the reason and says that training continues
    without the kernel. Returns true in a FakeTensorMode, whose tensors have no values to compare.
    (While Dynamo traces a model, this function still gets real tensors.)
    """
    if active_fake_mode() is not None:
        return True
    try:
        found = error()
    except torch.OutOfMemoryError:
        raise
    except Exception as problem:  # compilers, drivers and devices raise different errors
        lines = str(problem).strip().splitlines() or [""]
        reason = f"{type(problem).__name__}: {lines[0][:200]}"
    else:
        if found <= limit:
            return True
        reason = f"relative error {found:.2g} against plain products"
    warnings.warn(
        f"{what}: the Triton kernels do not work on {device} ({reason}); training continues "
        f"without them. {SWITCH}=0 disables them from the start.",
        stacklevel=3,
    )
    return False
