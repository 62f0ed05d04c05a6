"""Updates that the device itself skips or applies, so that the host need not synchronize."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def can_skip_on_device(optimizer: torch.optim.Optimizer, device: torch.device) -> bool:
    """Whether the device can skip a step of this optimizer, leaving weights and moments unchanged.

    The fused Adam, AdamW and SGD of torch read a flag on the device. The first step of SGD with
    momentum is an exception: if it were skipped, its moments would stay uninitialized.
    """
    if not getattr(optimizer, "_step_supports_amp_scaling", False):
        return False
    for group in optimizer.param_groups:
        if any(parameter.device.type != device.type for parameter in group["params"]):
            return False  # with CPU offload the host runs the step
        if group.get("momentum") and not all(_has_momentum(optimizer, p) for p in group["params"]):
            return False
    return True


def _has_momentum(optimizer: torch.optim.Optimizer, parameter: Tensor) -> bool:
    return optimizer.state.get(parameter, {}).get("momentum_buffer") is not None


def step_unless(bad: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Run an optimizer step that changes nothing if `bad`, a bool on the device, is true.

    Sets the attributes that torch's gradient scaler sets for its fused kernels.
    """
    optimizer.grad_scale = None  # type: ignore[attr-defined]
    optimizer.found_inf = bad.to(torch.float32)  # type: ignore[attr-defined]
    try:
        optimizer.step()
    finally:
        del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]


def scale_by(gradients: Sequence[Tensor], factor: Tensor) -> None:
    """Multiply all gradients by a number on the device, without reading it."""
    by_type: dict[torch.dtype, list[Tensor]] = {}
    for gradient in gradients:
        by_type.setdefault(gradient.dtype, []).append(gradient)
    for dtype, same in by_type.items():
        torch._foreach_mul_(same, factor.to(dtype))


def copying_to_host(numbers: Tensor) -> Callable[[], list[float]]:
    """Start copying numbers to the host; the returned function waits and returns them."""
    if numbers.device.type != "cuda":
        return numbers.tolist
    host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
    host.copy_(numbers, non_blocking=True)
    copied = torch.cuda.current_stream(numbers.device).record_event()

    def read() -> list[float]:
        copied.synchronize()
        return host.tolist()

    return read
