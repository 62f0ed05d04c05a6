"""Paged optimizers of bitsandbytes on a GPU: where moments are, also after a checkpoint."""

from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import nn

from tests.cuda.device import CUDA, Device
from trainer.settings import TrainSettings
from trainer.training.bitsandbytes_adamw import _page
from trainer.training.optim import build_optimizer, check_device

if find_spec("bitsandbytes") is None:
    pytest.skip("needs bitsandbytes", allow_module_level=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind"), [("paged_adamw", torch.float32), ("paged_adamw_8bit", torch.uint8)]
)
def test_large_moments_are_paged(
    name: str, kind: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pretended device has no paged memory, so the library's allocation of it is replaced."""
    import bitsandbytes.functional as library

    def paged(*shape: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        found: Any = torch.zeros(shape, dtype=dtype)
        found.is_paged = True
        return found

    monkeypatch.setattr(library, "get_paged", paged)
    monkeypatch.setattr(library, "fill", lambda *_: None)
    with Device() as device:
        model = device.place(nn.Sequential(nn.Linear(400, 400), nn.Linear(400, 3)))
        named = list(model.named_parameters())
        optimizer: Any = build_optimizer(named, TrainSettings(optimizer=name))
        check_device(name, CUDA)
        for part in optimizer.parts.values():
            for group in part.param_groups:
                for parameter in group["params"]:
                    part.init_state(group, parameter, 0, 0)
        large, small = (optimizer.state[model.get_parameter(f"{n}.weight")] for n in (0, 1))
        assert large["state1"].is_paged and large["state2"].is_paged
        assert large["state1"].dtype == kind and not hasattr(small["state1"], "is_paged")
        for state in optimizer.state.values():  # as a checkpoint restores them
            for moment in ("state1", "state2"):
                state[moment] = torch.zeros_like(state[moment], device=CUDA)
        allocated: list[int] = []
        for part in optimizer.parts.values():
            allocate = part.get_state_buffer
            monkeypatch.setattr(
                part,
                "get_state_buffer",
                lambda p, dtype, allocate=allocate: (
                    allocated.append(p.numel()) or allocate(p, dtype=dtype)
                ),
            )
            for _ in range(2):
                _page(part)
        assert allocated == [400 * 400] * 2, "one buffer for each large moment, once"
        assert large["state1"].is_paged and large["state2"].is_paged
        assert large["state1"].dtype == kind and small["state1"].device.type == "cuda"
