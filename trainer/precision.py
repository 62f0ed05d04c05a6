"""Number formats: which a device is fast at, and fp32 masters for what is trained."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from trainer.errors import InputError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(wanted: str, device: torch.device) -> str:
    """fp32, bf16 or fp16 for `wanted`, which may be auto: bf16 where the device is fast at it.

    Raises InputError for a format that the device cannot train in.
    """
    if wanted == "auto":
        return "bf16" if _fast_at_bf16(device) else "fp32"
    if wanted == "fp16" and device.type != "cuda":
        raise InputError("trainer.precision: fp16 needs a CUDA GPU; accepted here: fp32, bf16")
    return wanted


def check_same_precision(found: Sequence[str]) -> None:
    """Raise InputError where ranks, whose devices may differ, have resolved auto differently."""
    for rank, precision in enumerate(found):
        if precision != found[0]:
            said = f"auto is {found[0]} on rank 0 and {precision} on rank {rank}"
            raise InputError(f"trainer.precision: {said}; accepted: bf16, fp32")


def autocast(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """The context of a forward pass: matrix products in bf16 or fp16, or nothing for fp32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, DTYPES[precision])


def in_fp32(outputs: Any) -> Any:
    """What a model returned, with its half-precision tensors in fp32, so that sums keep digits."""
    if isinstance(outputs, torch.Tensor):
        half = outputs.dtype in (torch.float16, torch.bfloat16)
        return outputs.float() if half else outputs
    if isinstance(outputs, dict):
        return {name: in_fp32(value) for name, value in outputs.items()}
    if type(outputs) in (tuple, list):
        return type(outputs)(in_fp32(value) for value in outputs)
    return outputs


def in_float64(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor in float64; in host memory where its device, a GPU of Apple's, has no such type."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


def keep_masters_in_fp32(model: nn.Module) -> None:
    """Half-precision weights that are trained become fp32: bf16 swallows small updates."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype in (torch.float16, torch.bfloat16):
            parameter.data = parameter.data.float()


def _fast_at_bf16(device: torch.device) -> bool:
    """A CPU is where it multiplies bf16 in hardware (AVX512-BF16, AMX); a GPU from Ampere on."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "xpu":
        return torch.xpu.is_bf16_supported()
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False
