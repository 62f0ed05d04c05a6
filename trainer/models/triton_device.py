"""Whether Triton may be used on a device: installed, new enough, and not turned off."""

import importlib.util
import os

import torch

SWITCH = "TEMPERING_TRITON"
"""The environment variable that leaves out our Triton kernels and all that is compiled, with 0."""


def triton_runs_on(device: torch.device) -> bool:
    """Whether to try Triton here; it may still fail, and then its callers do without."""
    if device.type != "cuda" or os.environ.get(SWITCH) == "0":
        return False
    if torch.cuda.get_device_capability(device) < (8, 0):
        return False
    return installed()


def installed() -> bool:
    """Whether Triton is there, which torch brings for CUDA."""
    return importlib.util.find_spec("triton") is not None
