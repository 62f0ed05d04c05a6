"""Process state: torch's global state, which training changes and restores when it ends."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


@contextmanager
def process_as_found() -> Iterator[None]:
    """Restore torch's global generators and its deterministic mode on exit.

    Training seeds the generators at each step, so that a plain module's dropout is reproducible. If
    they were not restored, code that draws random numbers afterwards, such as the initialization of
    another model, would get the same numbers after every `fit`.
    """
    on_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
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
    """Use only kernels that add in a fixed order; torch raises an error for any other kernel."""
    # cuBLAS reads this before its first matrix product
    os.environ.setdefault(CUBLAS, ":4096:8")
    torch.use_deterministic_algorithms(True)
