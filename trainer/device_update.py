"""Updates that the device decides by itself: no launch waits until the host has read a number."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def skips_by_itself(optimizer: torch.optim.Optimizer, device: torch.device) -> bool:
    """Whether a step can leave weights and moments on `device` as they are without asking the host.

    The fused Adam, AdamW and SGD of torch look at a number on the device. SGD's first step with
    momentum does not: it would keep moments that nothing was written to.
    """
    if not getattr(optimizer, "_step_supports_amp_scaling", False):
        return False
    for group in optimizer.param_groups:
        if any(parameter.device.type != device.type for parameter in group["params"]):
            return False  # the host steps for a device that lacks the memory
        if group.get("momentum") and not all(_has_momentum(optimizer, p) for p in group["params"]):
            return False
    return True


def _has_momentum(optimizer: torch.optim.Optimizer, parameter: Tensor) -> bool:
    return optimizer.state.get(parameter, {}).get("momentum_buffer") is not None


def step_unless(bad: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """A step that changes nothing where `bad`, a bool on the device, is true.

    Torch names what its kernels look at after the gradient scaler, which sets it in the same way.
    """
    optimizer.grad_scale = None  # type: ignore[attr-defined]
    optimizer.found_inf = bad.to(torch.float32)  # type: ignore[attr-defined]
    try:
        optimizer.step()
    finally:
        del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]


def scale_by(gradients: Sequence[Tensor], factor: Tensor) -> None:
    """Multiply all gradients by a number that only the device knows."""
    by_type: dict[torch.dtype, list[Tensor]] = {}
    for gradient in gradients:
        by_type.setdefault(gradient.dtype, []).append(gradient)
    for dtype, same in by_type.items():
        torch._foreach_mul_(same, factor.to(dtype))


def on_the_way(numbers: Tensor) -> Callable[[], list[float]]:
    """Start copying numbers to the host; what it gives waits for them and reads them."""
    if numbers.device.type != "cuda":
        return numbers.tolist
    host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
    host.copy_(numbers, non_blocking=True)
    there = torch.cuda.current_stream(numbers.device).record_event()

    def read() -> list[float]:
        there.synchronize()
        return host.tolist()

    return read
