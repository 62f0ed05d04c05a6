"""Named device: the torch device that a user names, if this machine has it."""

import torch

from trainer.errors import InputError


def named_device(value: object, name: str, others: tuple[str, ...] = ()) -> torch.device:
    """The device that `value` names: a device, its name, or its index; -1 is the CPU.

    Raises InputError, which starts with `name`, for a value that names no device (the message
    lists `others` as accepted too), and for a device that this process cannot use.
    """
    found = f"{name}: found {value!r}"
    try:
        device = _of_index(value) if isinstance(value, int) else torch.device(value)  # type: ignore[call-overload]
    except (RuntimeError, TypeError):
        accepted = ", or ".join(("a device such as 'cuda:0' or 'cpu'", *others))
        raise InputError(f"{found}; accepted: {accepted}") from None
    if reason := _fault(device):
        count = torch.accelerator.device_count()
        own = torch.accelerator.current_accelerator(check_available=True)
        available = [f"{own.type}:{index}" for index in range(count)] if own is not None else []
        accepted = ", ".join([*(each for each in available if each != str(device)), "cpu"])
        raise InputError(f"{found}, which cannot be used here ({reason}); accepted: {accepted}")
    return device


def _of_index(index: int) -> torch.device:
    """The accelerator with this index (CUDA if there is none); a negative index means the CPU."""
    if index < 0:
        return torch.device("cpu")
    own = torch.accelerator.current_accelerator(check_available=True)
    return torch.device("cuda" if own is None else own.type, index)


def _fault(device: torch.device) -> str:
    """The start of torch's reason why this process cannot use a device; empty if it can.

    The machine may have the device: a process that was forked after CUDA had started cannot use it.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0].rstrip(".")
        return f"{reason:.100}" or type(error).__name__
    return ""
