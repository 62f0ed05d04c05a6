"""A step waits for its device once, and sends one rank's exit code to all."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.unit.test_exactness import RECIPES, ragged_table, tiny_model
from trainer.devices.ranks import Ranks
from trainer.training.step import LEAVE_CODES, Stepper

WAITS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero"}
"""Operations that wait for a GPU, besides copies to the CPU."""


class Watch(TorchDispatchMode):
    """Records every operation by its name."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.name().split(".")[0])
        return func(*args, **(kwargs or {}))


def stepper(recipe: str = "single_label") -> Stepper:
    model = tiny_model().train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    return Stepper(model, RECIPES[recipe], optimizer, ranks=Ranks(), global_batch_size=32)


def halves() -> list[tuple[Any, bool]]:
    table = ragged_table()
    parts = np.split(np.arange(32), 2)
    return [(table.collate(part).for_step(0, 0), True) for part in parts]


@pytest.mark.parametrize("poison", [False, True])
def test_looking_for_numbers_that_are_not_finite_costs_no_wait_of_its_own(
    poison: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = stepper()
    if poison:
        next(run.model.parameters()).data[:] = torch.nan
    sums = run.accumulate(halves(), 2)
    read: list[torch.Tensor] = []
    usual = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: read.append(self) or usual(self))
    with Watch() as watch:
        facts = run.apply(sums, 1e-3)
    assert facts.finite is not poison
    assert ("aten::_fused_adamw_" in watch.names) is not poison
    assert not WAITS & set(watch.names)
    assert len(read) == 1, "loss, count, norm and votes come over together"


@pytest.mark.parametrize("code", [0, *LEAVE_CODES])
def test_what_a_rank_was_asked_comes_back(code: int) -> None:
    assert stepper().step(halves(), 2, 1e-3, lambda: code).leave == code
