"""A trial: a kernel proves itself on a small batch before its first use, or is left out."""

import warnings
from collections.abc import Callable

import torch
from torch._guards import active_fake_mode

from trainer.models.triton_device import SWITCH


def passes(what: str, device: torch.device, error: Callable[[], float], limit: float) -> bool:
    """Whether `error`, which tries the kernel, gives at most `limit`.

    If not, or if it raises, one warning says why training goes on without the kernel. Fake tensors
    have no numbers to compare: there the answer is yes. (While Dynamo traces a model, tensors are
    real here.)
    """
    if active_fake_mode() is not None:
        return True
    try:
        found = error()
    except torch.OutOfMemoryError:
        raise
    except Exception as problem:  # a compiler, a driver and a device may each fail in its own way
        lines = str(problem).strip().splitlines() or [""]
        reason = f"{type(problem).__name__}: {lines[0][:200]}"
    else:
        if found <= limit:
            return True
        reason = f"relative error {found:.2g} against plain products"
    warnings.warn(
        f"{what}: the Triton kernels do not work on {device} ({reason}); training goes on without "
        f"them. {SWITCH}=0 leaves them out from the start.",
        stacklevel=3,
    )
    return False
