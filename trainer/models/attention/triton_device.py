"""Checks that Triton is installed, not turned off, and supports a device."""

import importlib.util
import os

import torch

SWITCH = "TEMPERING_TRITON"
"""Set this environment variable to 0 to disable our Triton kernels and compiled leaf functions."""


def triton_runs_on(device: torch.device) -> bool:
    """Whether to try Triton on this device; callers must have a fallback in case it fails."""
    if device.type != "cuda" or os.environ.get(SWITCH) == "0":
        return False
    if torch.cuda.get_device_capability(device) < (8, 0):
        return False
    return installed()


def torch_compiles_for(device: torch.device) -> bool:
    """Whether torch.compile can generate kernels for this device."""
    if device.type != "cuda":
        return True
    return installed() and torch.cuda.get_device_capability(device) >= (7, 0)


def installed() -> bool:
    """Whether Triton is installed; CUDA builds of torch include it."""
    return importlib.util.find_spec("triton") is not None
