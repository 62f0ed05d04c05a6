"""Precision: the number format of computations; trained weights are always in fp32."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from trainer.errors import InputError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(wanted: str, device: torch.device) -> str:
    """The precision for `wanted`; auto is bf16 if the device computes it fast, otherwise fp32.

    Raises InputError for a format that the device cannot train in.
    """
    if wanted == "auto":
        return "bf16" if _fast_at_bf16(device) else "fp32"
    if wanted == "fp16" and device.type != "cuda":
        raise InputError("trainer.precision: fp16 needs a CUDA GPU; accepted here: fp32, bf16")
    return wanted


def precision_of(wanted: str, model: nn.Module, device: torch.device) -> str:
    """Like `resolve_precision`, for a model to train: auto is fp32 if it has float64 weights.

    Raises InputError for half precision with float64 weights, which autocast does not convert.
    """
    doubles = (n for n, p in model.named_parameters() if p.dtype == torch.float64)
    name = next(doubles, None)
    if name is None or wanted == "fp32":
        return resolve_precision(wanted, device)
    if wanted == "auto":
        return "fp32"
    found = f"found {wanted}, and '{name}' is in float64"
    raise InputError(f"trainer.precision: {found}; accepted: fp32, or model.float()")


def check_same_precision(found: Sequence[str]) -> None:
    """Raise InputError if auto resolves to different precisions on different ranks."""
    for rank, precision in enumerate(found):
        if precision != found[0]:
            different = f"auto is {found[0]} on rank 0 and {precision} on rank {rank}"
            raise InputError(f"trainer.precision: {different}; accepted: bf16, fp32")


def autocast(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """The context manager of a forward pass: autocast to bf16 or fp16; for fp32 it does nothing."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, DTYPES[precision])


def in_fp32(outputs: Any) -> Any:
    """A model's outputs with half-precision tensors converted to fp32, for accurate sums."""
    if isinstance(outputs, torch.Tensor):
        half = outputs.dtype in (torch.float16, torch.bfloat16)
        return outputs.float() if half else outputs
    if isinstance(outputs, dict):
        return {name: in_fp32(value) for name, value in outputs.items()}
    if type(outputs) in (tuple, list):
        return type(outputs)(in_fp32(value) for value in outputs)
    return outputs


def in_float64(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor in float64; in host memory if its device lacks the type (Apple's GPUs)."""
    return tensor.to(device_with_float64(tensor.device)).double()


def device_with_float64(device: torch.device) -> torch.device:
    """A device, or host memory if the device lacks float64 (Apple's GPUs)."""
    return torch.device("cpu") if device.type == "mps" else device


def keep_masters_in_fp32(model: nn.Module) -> None:
    """Convert trained half-precision weights to fp32: in bf16 small updates are rounded away."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype in (torch.float16, torch.bfloat16):
            parameter.data = parameter.data.float()


def _fast_at_bf16(device: torch.device) -> bool:
    """Whether bf16 is fast: on CPUs with AVX512-BF16 or AMX, on GPUs from Ampere on."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "xpu":
        return torch.xpu.is_bf16_supported()
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False
