"""Row seeds: make randomly augmented rows a function of seed, epoch and row index."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from trainer.data.plan import splitmix64

MASK = (1 << 64) - 1


@contextmanager
def preserve_rng_state() -> Iterator[None]:
    """Restore the global generators of Python, numpy and torch (CPU) on exit."""
    python, numpy, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(torch_state)


def seed_rng_for_row(seed: int, epoch: int, number: int) -> None:
    """Seed the global generators of Python, numpy and torch (CPU) for one row of a data set."""
    key = np.zeros(1, dtype=np.uint64)
    for part in (seed, epoch, number):
        key = splitmix64(key ^ np.array([part & MASK], dtype=np.uint64))
    value = int(key[0])
    random.seed(value)
    np.random.seed(value & 0xFFFF_FFFF)
    torch.default_generator.manual_seed(value >> 1)
