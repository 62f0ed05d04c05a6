"""Two ranks gather arrays while the group of all ranks seems to take only CUDA tensors."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from trainer.devices.ranks import Ranks


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    dist.get_backend_config = lambda group=None: "cuda:nccl"  # type: ignore[assignment]
    usual, groups = dist.all_gather, []

    def all_gather(parts: list[torch.Tensor], own: torch.Tensor, group: Any = None) -> Any:
        assert {part.device.type for part in (*parts, own)} == {"cpu"}
        groups.append(group)
        return usual(parts, own, group=group)

    dist.all_gather = all_gather
    ranks = Ranks(torch.device("cpu"))
    own = {"ids": np.arange(3 + ranks.rank), "scores": np.full((2, ranks.rank), 0.5)}
    for rank, found in enumerate(ranks.gather_arrays(own)):
        assert found["ids"].tolist() == list(range(3 + rank))
        assert found["scores"].shape == (2, rank) and (found["scores"] == 0.5).all()
    assert groups and dist.group.WORLD not in groups and None not in groups
    (folder / f"rank{ranks.rank}").touch()
