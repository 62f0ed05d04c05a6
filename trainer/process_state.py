"""Process state: what a training changes in the whole process, and restores at its end."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


@contextmanager
def process_as_found() -> Iterator[None]:
    """Leave torch's global generators and its deterministic switch as they were found.

    A training seeds the generators at each step, so that a plain module's dropout repeats; code
    that draws afterwards, such as the next member of an ensemble, must not repeat with it.
    """
    on_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
    cpu, gpus = torch.get_rng_state(), torch.cuda.get_rng_state_all() if on_gpu else None
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    workspace = os.environ.get(CUBLAS)
    try:
        yield
    finally:
        torch.set_rng_state(cpu)
        if gpus is not None:
            torch.cuda.set_rng_state_all(gpus)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        if workspace is None:
            os.environ.pop(CUBLAS, None)


def use_deterministic_kernels() -> None:
    """Refuse kernels that add in no fixed order."""
    # cuBLAS reads this before its first product
    os.environ.setdefault(CUBLAS, ":4096:8")
    torch.use_deterministic_algorithms(True)
