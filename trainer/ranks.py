"""Ranks: who am I, how many are we, and what the others say."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import safetensors.numpy
import torch
import torch.distributed as dist
from torch import Tensor

from trainer.errors import LostRank


class Ranks:
    """The processes of a run; alone where no process group exists. Nothing is pickled."""

    def __init__(self, device: torch.device | None = None) -> None:
        together = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if together else 0
        self.world_size = dist.get_world_size() if together else 1
        self.device = device or torch.device("cpu")
        self.widest = torch.float32 if self.device.type == "mps" else torch.float64
        """The type that sums and counts are added up in; Apple's GPUs have no float64."""

    @property
    def is_main(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of a small tensor over all ranks."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    @contextmanager
    def faults_told(self) -> Iterator[None]:
        """Within it, a rank that has left or hangs is a LostRank of one line."""
        try:
            yield
        except RuntimeError as error:
            if self.world_size == 1 or not _of_the_group(error):
                raise
            reason = re.sub(r"^\[.*?\] |\. .*", "", str(error).strip().splitlines()[0])
            raise LostRank(
                f"rank {self.rank}: another rank has left or does not answer ({reason})"
            ) from error

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The main process goes through the block before the others: they find what it left."""
        if not self.is_main:
            self.barrier()
        try:
            yield
        finally:
            if self.is_main:
                self.barrier()

    def barrier(self) -> None:
        """Wait until every rank is here."""
        # on a GPU the sum is only queued: reading it is what waits
        self.sum(torch.zeros((), device=self.device)).item()

    def gather(self, value: Any) -> list[Any]:
        """Every rank's JSON value, in rank order, on every rank."""
        return [json.loads(part) for part in self._gather_bytes(json.dumps(value).encode())]

    def gather_arrays(self, arrays: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
        """Every rank's arrays, in rank order, on every rank."""
        if self.world_size == 1:
            return [dict(arrays)]
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        parts = self._gather_bytes(safetensors.numpy.save(contiguous))
        return [safetensors.numpy.load(part) for part in parts]

    def _gather_bytes(self, data: bytes) -> list[bytes]:
        if self.world_size == 1:
            return [data]
        size = torch.tensor([len(data)], device=self.device)
        sizes = [torch.zeros_like(size) for _ in range(self.world_size)]
        dist.all_gather(sizes, size)
        longest = int(max(sizes))
        padded = torch.zeros(longest, dtype=torch.uint8, device=self.device)
        padded[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        parts = [torch.empty_like(padded) for _ in range(self.world_size)]
        dist.all_gather(parts, padded)
        return [
            part[: int(n)].cpu().numpy().tobytes() for part, n in zip(parts, sizes, strict=True)
        ]


def _of_the_group(error: RuntimeError) -> bool:
    """Whether the process group failed: gloo raises plain RuntimeErrors that name its files."""
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()
