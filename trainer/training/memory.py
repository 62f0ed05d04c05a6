"""Memory: finds the largest micro batch that fits, and recovers from one that does not."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from trainer.data.dealing import cut, in_groups
from trainer.devices.device_memory import memory_left, room
from trainer.devices.ranks import Ranks
from trainer.errors import EnvironmentFault
from trainer.training.optim import bytes_of_state

ACCEPTED = "accepted: shorter samples, trainer.gradient_checkpointing=true, more memory"
OUT_OF_MEMORY = re.compile(
    r"CU(BLAS|DNN|SOLVER)_STATUS_(ALLOC_FAILED|NOT_INITIALIZED)"
    r"|HIPBLAS_STATUS_(ALLOC_FAILED|NOT_INITIALIZED)"
    r"|(CUDA|HIP) error: out of memory|MPS backend out of memory|can't allocate memory"
)
"""Errors of libraries that allocate memory themselves, not through torch's allocator."""
RESERVE = 0.05
"""Share of the remaining memory that the search leaves free for cuBLAS, NCCL and fragmentation,
whose needs vary with the size of micro batches."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, from torch or another library, reports a lack of memory."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and bool(OUT_OF_MEMORY.search(str(error)))


@contextmanager
def _out_of_memory_as(line: str) -> Iterator[None]:
    """Context manager that turns out-of-memory errors into an EnvironmentFault with `line`."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise EnvironmentFault(line) from error


class Reduction:
    """Tracks DDP's averaging of gradients, so that a failed pass can be completed.

    Other ranks wait for every gradient of this rank. If its pass fails, a second backward pass over
    any batch sends the missing gradients; all ranks then discard the result.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._trained = [p for p in model.parameters() if p.requires_grad]
        self._done: set[nn.Parameter] = set()
        self._begun = False
        if isinstance(model, DistributedDataParallel):
            for parameter in self._trained:
                parameter.register_post_accumulate_grad_hook(self._done.add)  # type: ignore[no-untyped-call]

    def begin(self) -> None:
        """Record the start of a pass."""
        self._done.clear()
        self._begun = False

    def averaged_if(self, last: bool) -> AbstractContextManager[None]:
        """Context manager for one pass: the last pass of a step averages gradients over ranks."""
        synced = last or not isinstance(self.model, DistributedDataParallel)
        return nullcontext() if synced else self.model.no_sync()  # type: ignore[operator]

    def reach_backward(self) -> None:
        """Record the end of the forward pass, and whether DDP averages in the backward pass."""
        if isinstance(self.model, DistributedDataParallel):
            self._begun = self.model.require_backward_grad_sync

    def make_up(self, loss_of: Callable[[nn.Module], torch.Tensor], passes: int) -> None:
        """Send the missing gradients as zeros.

        `passes` has no effect, since DDP averages only in the last pass.
        """
        missing = [p for p in self._trained if not self._begun or p not in self._done]
        if missing:
            loss = loss_of(whole(self.model) if self._begun else self.model)
            torch.autograd.backward(loss * 0.0, inputs=missing)


def whole(model: nn.Module) -> nn.Module:
    """The model without DDP's wrapper."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def weights_in_memory() -> AbstractContextManager[None]:
    """Context manager: running out of memory for weights and moments raises a one-line error."""
    return _out_of_memory_as(
        "out of memory: weights, gradients and moments do not fit together; accepted: "
        "launch.strategy=fsdp with more devices or launch.cpu_offload=true, more memory"
    )


def step_memory(step: int, max_tokens: int) -> AbstractContextManager[None]:
    """Context manager: running out of memory in a step's micro batches raises a one-line error."""
    return _out_of_memory_as(
        f"step {step}: out of memory in micro batches of up to {max_tokens} tokens; accepted: a "
        "smaller trainer.max_tokens_per_micro_batch, trainer.gradient_checkpointing=true"
    )


def evaluation_memory(max_tokens: int) -> AbstractContextManager[None]:
    """Context manager: running out of memory in evaluation batches raises a one-line error."""
    return _out_of_memory_as(
        f"evaluation: out of memory in batches of up to {max_tokens} tokens; accepted: a "
        "smaller trainer.max_tokens_per_micro_batch"
    )


def largest_budget(
    fits: Callable[[np.ndarray], bool],
    lengths: np.ndarray,
    num_samples: int,
    ranks: Ranks,
    group_size: int = 1,
    kinds: np.ndarray | None = None,
) -> int:
    """The tokens of the largest micro batch that `fits` on every rank.

    Tries the `num_samples` longest samples (a rank's share of a step) together, then half their
    tokens, and so on, in whole groups of `group_size`. With `kinds`, [N], they are of a single
    kind, since samples of several kinds share no batch: of the one with the most tokens. Raises
    EnvironmentFault if even the longest group does not fit.
    """
    longest = _longest(lengths, num_samples, kinds)
    while not all(ranks.gather(fits(longest))):
        groups = in_groups(lengths[longest], group_size)
        first = cut(groups, None, smaller_budget([groups]))[0]
        longest = longest[: first.stop * group_size]
    return int(lengths[longest].sum())


def _longest(lengths: np.ndarray, num_samples: int, kinds: np.ndarray | None) -> np.ndarray:
    """The indices of the longest samples, the longest first; of one kind, if there are several."""
    if kinds is None:
        return np.argsort(-lengths, kind="stable")[:num_samples]
    found = []
    for kind in np.unique(kinds):
        own = np.flatnonzero(kinds == kind)
        found.append(own[_longest(lengths[own], num_samples, None)])
    return max(found, key=lambda ids: int(lengths[ids].sum()))


def smaller_budget(micro_batches: Sequence[np.ndarray]) -> int:
    """Half the tokens of the largest micro batch; each is given as the lengths of its groups.

    Micro batches with a single group cannot be split and do not count. Raises EnvironmentFault if
    there are none.
    """
    divisible = [int(lengths.sum()) for lengths in micro_batches if len(lengths) > 1]
    if not divisible:
        longest = max(int(lengths.sum()) for lengths in micro_batches)
        raise EnvironmentFault(
            f"out of memory: a sample of {longest} tokens does not fit; {ACCEPTED}"
        )
    return max(divisible) // 2


def reserved_for_update(optimizer: torch.optim.Optimizer, device: torch.device) -> torch.Tensor:
    """A tensor that takes the memory of the optimizer's first step, plus a reserve."""
    moments = bytes_of_state(optimizer)
    return room(moments + int(RESERVE * max(0, memory_left(device) - moments)), device)
