"""Ranks: the processes of a run, and how they exchange values."""

import functools
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import safetensors.numpy
import torch
import torch.distributed as dist
from torch import Tensor

from trainer.devices.groups import collective_timeout, host_group
from trainer.devices.waiting import Waiting
from trainer.errors import EnvironmentFault, LostRank

OUT_OF_MEMORY = re.compile(
    r"out of memory|cannot allocate memory|failed to cuda (calloc|host alloc|malloc)", re.IGNORECASE
)
"""Matches the line of an NCCL error that reports a failed memory allocation."""


class Ranks:
    """The processes of a run; a single process has no process group. Nothing is pickled.

    `sum` adds tensors on the devices. Other values are exchanged through host memory (with gloo),
    as JSON or arrays. If ranks wait while another writes to a disk, they exchange values through
    the group's store, since a collective could time out (`at_work`, `gather_after_work`). A second
    thread that uses the store needs Ranks with another `channel`.
    """

    def __init__(self, device: torch.device | None = None, channel: str = "main") -> None:
        is_distributed = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if is_distributed else 0
        self.world_size = dist.get_world_size() if is_distributed else 1
        self.device = device or torch.device("cpu")
        self.copies = 1
        """The number of consecutive ranks that train on the same samples."""
        self.alike = 1
        """The number of consecutive ranks that split each layer and so run every pass together."""
        self.widest = torch.float32 if self.device.type == "mps" else torch.float64
        """The dtype of summed losses and counts; Apple's GPUs have no float64."""
        self._waiting = _waiting(channel) if self.world_size > 1 else None

    @property
    def data_rank(self) -> int:
        """The index of this rank's share of the samples, among `data_world_size` shares."""
        return self.rank // self.copies

    @property
    def data_world_size(self) -> int:
        """The number of shares into which the samples of a global batch are divided."""
        return self.world_size // self.copies

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which prints and writes."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of a small tensor over all ranks, computed in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def of_thread(self, name: str) -> "Ranks":
        """These ranks for a thread, which exchanges values with the same thread of other ranks."""
        others = Ranks(self.device, channel=name)
        others.copies, others.alike = self.copies, self.alike
        return others

    @contextmanager
    def faults_reported(self) -> Iterator[None]:
        """Context manager: if another rank has ended or hangs, raise LostRank with one line.

        A collective that fails for lack of memory on this rank raises EnvironmentFault.
        """
        try:
            yield
        except RuntimeError as error:
            if self.world_size == 1 or not _of_the_group(error):
                raise
            if memory_line := _line_about_memory(error):
                raise EnvironmentFault(
                    f"rank {self.rank}: out of memory in a collective ({memory_line}); accepted: a "
                    "smaller trainer.max_tokens_per_micro_batch, more memory"
                ) from error
            reason = re.sub(r"^\[.*?\] |\. .*", "", str(error).strip().splitlines()[0])
            raise LostRank(
                f"rank {self.rank}: another rank has left or does not answer ({reason})"
            ) from error

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Context manager: rank 0 runs its body first, so that the others find the results."""
        if not self.is_main:
            self.barrier()
        try:
            with self.at_work() if self.is_main else nullcontext():
                yield
        finally:
            if self.is_main:
                self.barrier()

    def barrier(self) -> None:
        """Wait for every rank, for as long as ranks that are `at_work` need."""
        self.gather_after_work(None)

    def at_work(self) -> AbstractContextManager[None]:
        """Context manager in which this rank signals to the others that it is alive."""
        return nullcontext() if self._waiting is None else self._waiting.at_work()

    def gather_after_work(self, value: object) -> list[Any]:
        """Every rank's JSON value, in rank order, once all have arrived.

        Unlike `gather` it waits without a limit for ranks that are `at_work`. Raises LostRank
        for a rank that sends no heartbeat for as long as a collective may take.
        """
        if self._waiting is None:
            return [value]
        return [json.loads(part) for part in self._waiting.gather(json.dumps(value))]

    def gather(self, value: object) -> list[Any]:
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
        """Gather through host memory, since predictions may not fit on a GPU."""
        if self.world_size == 1:
            return [data]
        group = _host_group(dist.group.WORLD)
        size = torch.tensor([len(data)])
        sizes = [torch.zeros_like(size) for _ in range(self.world_size)]
        dist.all_gather(sizes, size, group=group)
        padded = torch.zeros(int(max(sizes)), dtype=torch.uint8)
        padded[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        parts = [torch.empty_like(padded) for _ in range(self.world_size)]
        dist.all_gather(parts, padded, group=group)
        return [part[: int(n)].numpy().tobytes() for part, n in zip(parts, sizes, strict=True)]


def _waiting(channel: str) -> Waiting:
    """The `Waiting` of this rank, with the timeout of the group's collectives."""
    store = dist.distributed_c10d._get_default_store()
    seconds = collective_timeout().total_seconds()
    return Waiting(store, dist.get_rank(), dist.get_world_size(), seconds, channel)


@functools.cache
def _host_group(world: "dist.ProcessGroup | None") -> "dist.ProcessGroup | None":
    """The group for tensors on the CPU: `world` if it supports them, or a second group."""
    backends = dist.get_backend_config(world)
    return world if "cpu:" in str(backends) else host_group()


def _of_the_group(error: RuntimeError) -> bool:
    """Whether the process group failed; gloo's errors are RuntimeErrors with "gloo" in the text."""
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()


def _line_about_memory(error: RuntimeError) -> str:
    """The line of a collective's error that reports a lack of memory; otherwise ''."""
    lines = str(error).splitlines()
    return next((line.strip()[:200] for line in lines if OUT_OF_MEMORY.search(line)), "")
