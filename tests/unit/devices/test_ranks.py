"""Ranks: the errors of failed collectives."""

import pytest
from torch.distributed import DistBackendError

from trainer.devices.ranks import Ranks
from trainer.errors import EnvironmentFault, LostRank

NCCL = "NCCL error in: ../NCCLUtils.cpp:93, unhandled cuda error, NCCL version 2.27.5\n"
NCCL += "ncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\n"


@pytest.mark.parametrize(
    "last", ["Cuda failure 2 'out of memory'", "Failed to CUDA calloc async 608 bytes"]
)
def test_a_lack_of_memory_in_nccl_is_told_as_one(last: str) -> None:
    ranks = Ranks()
    ranks.world_size = 2
    with pytest.raises(EnvironmentFault) as caught, ranks.faults_reported():
        raise DistBackendError(NCCL + last)
    assert not isinstance(caught.value, LostRank)  # it would hide the cause
    said = str(caught.value)
    assert said.startswith(f"rank 0: out of memory in a collective ({last}); accepted: ")


def test_any_other_fault_of_a_collective_is_a_lost_rank() -> None:
    ranks = Ranks()
    ranks.world_size = 2
    with pytest.raises(LostRank, match=r"\(NCCL error in: .*\)$"), ranks.faults_reported():
        raise DistBackendError(NCCL + "socketPollConnect: connection refused")
