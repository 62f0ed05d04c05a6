"""BitsAndBytesAdamW: bitsandbytes' AdamW optimizers, with states that checkpoints can hold."""

from collections.abc import Callable

import torch
from torch import Tensor

from trainer.training.combined import CombinedOptimizer

MOMENTS = ("state1", "state2")
SMALLEST_PAGED = 100_000
"""The library pages the moments of parameters with at least this many values."""


class BitsAndBytesAdamW(CombinedOptimizer):
    """A combined optimizer whose parts may be bitsandbytes', with 8-bit or 32-bit moments."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter.

        The library counts steps with an int, which is converted to a tensor for checkpoints.
        Moments restored from a checkpoint are moved to paged memory if the optimizer uses it.
        """
        counters = [state for _, state in self.states() if MOMENTS[0] in state]
        for state in counters:
            state["step"] = int(state["step"])
        for part in self.parts.values():
            if getattr(part, "is_paged", False):
                _page(part)
        super().step(closure)
        for _, state in self.states():
            if MOMENTS[0] in state:
                state["step"] = torch.tensor(state["step"])


def _page(part: torch.optim.Optimizer) -> None:
    """Move restored moments to the kind of memory that the optimizer itself would allocate."""
    for group in part.param_groups:
        for parameter in group["params"]:
            on_cpu = parameter.device.type == "cpu"  # in a run that only determines moments' shapes
            if on_cpu or parameter.numel() < SMALLEST_PAGED:
                continue
            state = part.state.get(parameter, {})
            for name in (name for name in MOMENTS if name in state):
                if not getattr(state[name], "is_paged", False):
                    state[name] = _paged(part, parameter, state[name])


def _paged(part: torch.optim.Optimizer, parameter: Tensor, moment: Tensor) -> Tensor:
    """The moment in paged memory; the library keeps small moments on the device."""
    buffer: Tensor = part.get_state_buffer(parameter, dtype=moment.dtype)  # type: ignore[attr-defined]
    return buffer.copy_(moment) if getattr(buffer, "is_paged", False) else moment
