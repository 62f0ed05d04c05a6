"""Which number format a device is fast at, and which it can do at all."""

import torch

from trainer.errors import InputError


def resolve_precision(wanted: str, device: torch.device) -> str:
    """fp32, bf16 or fp16 for `wanted`, which may be auto: bf16 where the device is fast at it.

    Raises InputError for a format that the device cannot train in.
    """
    if wanted == "auto":
        return "bf16" if _fast_at_bf16(device) else "fp32"
    if wanted == "fp16" and device.type != "cuda":
        raise InputError("trainer.precision: fp16 needs a CUDA GPU; accepted here: fp32, bf16")
    return wanted


def _fast_at_bf16(device: torch.device) -> bool:
    """A CPU is where it multiplies bf16 in hardware (AVX512-BF16, AMX); a GPU from Ampere on."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False
