"""Ranks: who am I, how many are we, and what the others say."""

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

from trainer.errors import EnvironmentFault, LostRank
from trainer.waiting import Waiting

WITHOUT_MEMORY = re.compile(
    r"out of memory|cannot allocate memory|failed to cuda (calloc|host alloc|malloc)", re.IGNORECASE
)
"""What NCCL says, in one line of several, where it could not allocate its buffers."""


class Ranks:
    """The processes of a run; alone where no process group exists. Nothing is pickled.

    What is computed together is summed on the devices. Everything else goes through host memory:
    JSON and arrays by gloo, and what takes as long as a disk does by the group's store, where no
    collective can time out (`at_work`, `gather_after_work`). Another thread of a rank that meets
    the others through the store has Ranks with a `channel` of its own.
    """

    def __init__(self, device: torch.device | None = None, channel: str = "main") -> None:
        together = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if together else 0
        self.world_size = dist.get_world_size() if together else 1
        self.device = device or torch.device("cpu")
        self.widest = torch.float32 if self.device.type == "mps" else torch.float64
        """The type that sums and counts are added up in; Apple's GPUs have no float64."""
        self._waiting = _waiting(channel) if self.world_size > 1 else None

    @property
    def is_main(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of a small tensor over all ranks."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def of_thread(self, name: str) -> "Ranks":
        """These ranks for another thread than the main one, which meets its like by this name."""
        return Ranks(self.device, channel=name)

    @contextmanager
    def faults_told(self) -> Iterator[None]:
        """Within it, a rank that has left or hangs is a LostRank of one line.

        A collective for which this rank has no memory left is an EnvironmentFault.
        """
        try:
            yield
        except RuntimeError as error:
            if self.world_size == 1 or not _of_the_group(error):
                raise
            if lacking := _line_about_memory(error):
                raise EnvironmentFault(
                    f"rank {self.rank}: out of memory in a collective ({lacking}); accepted: a "
                    "smaller trainer.max_tokens_per_micro_batch, more memory"
                ) from error
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
            with self.at_work() if self.is_main else nullcontext():
                yield
        finally:
            if self.is_main:
                self.barrier()

    def barrier(self) -> None:
        """Wait until every rank is here, for as long as those who are `at_work` need."""
        self.gather_after_work(None)

    def at_work(self) -> AbstractContextManager[None]:
        """Within it this rank tells the others that it lives, whatever it waits for itself."""
        return nullcontext() if self._waiting is None else self._waiting.at_work()

    def gather_after_work(self, value: Any) -> list[Any]:
        """Every rank's JSON value, in rank order, once the last one is there.

        Unlike in `gather` no time limit ends the wait for a rank that is `at_work`. Raises
        LostRank where another rank gives no sign of life for as long as a collective may take.
        """
        if self._waiting is None:
            return [value]
        return [json.loads(part) for part in self._waiting.gather(json.dumps(value))]

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
        """In host memory, which predictions fit in where a GPU may have none left."""
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
    """How this rank waits for the others' work, for as long as the group's collectives do."""
    store = dist.distributed_c10d._get_default_store()
    seconds = store.timeout.total_seconds()  # type: ignore[attr-defined]
    return Waiting(store, dist.get_rank(), dist.get_world_size(), seconds, channel)


@functools.cache
def _host_group(world: Any) -> Any:
    """The group whose collectives take tensors of the CPU: `world`, or one beside it."""
    backends = dist.get_backend_config(world)
    return world if "cpu:" in str(backends) else dist.new_group(backend="gloo")


def _of_the_group(error: RuntimeError) -> bool:
    """Whether the process group failed: gloo raises plain RuntimeErrors that name its files."""
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()


def _line_about_memory(error: RuntimeError) -> str:
    """The line of a failed collective that tells of a lack of memory, or nothing."""
    lines = str(error).splitlines()
    return next((line.strip()[:200] for line in lines if WITHOUT_MEMORY.search(line)), "")
